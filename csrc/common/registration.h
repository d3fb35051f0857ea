// The one place that says under which name and for which device a library's operations are registered.
//
// A family's calls are written once for both devices, in ops/<family>_call.h: checks, allocation of results, and from
// tensors to pointers, as static functions of a template over a Device. The Device does the work: for each struct of
// parameters of the family it has `run(parameters, like)`, where `like` is a tensor on the device, to allocate like.
// All that a call reads and writes, in place or not and of whatever types, is in the struct; how the work is cut, what
// scratch it takes and in how many launches sums are added up is the Device's own affair.
//
// The CUDA sources compiled for the host (tests only) register as an operator library of their own, for CPU tensors.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>

namespace visgen {

using Library = torch::stable::detail::StableLibrary;

// Registers each function under its name; `names` are those of all, as VISGEN_OPERATIONS lists them.
template <auto... functions>
void add_operations(Library& m, const std::string& names) {
  size_t begin = 0;
  const auto next_name = [&] {
    const size_t end = names.find(',', begin), length = end == names.npos ? end : end - begin;
    const std::string name = names.substr(begin, length);
    begin = names.find_first_not_of(", ", end);
    return name;
  };
  (m.impl(next_name().c_str(), TORCH_BOX(functions)), ...);
}

}  // namespace visgen

// In a struct of calls: the operations among its functions, which have the names of their schemas.
#define VISGEN_OPERATIONS(...) \
  static void add_to(Library& m) { add_operations<__VA_ARGS__>(m, #__VA_ARGS__); }

#ifdef VISGEN_CUDA_ON_HOST
#define VISGEN_SCHEMAS(m) STABLE_TORCH_LIBRARY(visgen_fast_cuda_on_host, m)
#define VISGEN_REGISTER(device, m) STABLE_TORCH_LIBRARY_IMPL(visgen_fast_cuda_on_host, CPU, m)
#else
#define VISGEN_SCHEMAS(m) STABLE_TORCH_LIBRARY(visgen_fast, m)
#define VISGEN_REGISTER(device, m) STABLE_TORCH_LIBRARY_IMPL(visgen_fast, device, m)
#endif
