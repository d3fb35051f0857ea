// Places in the source.
#pragma once

#include <string>

namespace visgen::host {

// "csrc/cuda/noise.cu:57" for a return address. Of a chain of inlined calls it names the innermost that is not in the
// headers on which kernels stand. Without debug information: the library and the offset in it.
std::string describe_place(const void* return_address);

}  // namespace visgen::host
