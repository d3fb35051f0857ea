// Memory that a kernel works in.
#pragma once

#include <cstdlib>

#include "../kernels.h"

namespace visgen::VISGEN_ISA {

// Memory of one kernel call, aligned to the widest vectors.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : data_(aligned_alloc(64, (bytes + 127) / 64 * 64)) {
    if (!data_) no_memory_for(bytes);
  }
  ~Scratch() { free(data_); }
  Scratch(const Scratch&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
};

}  // namespace visgen::VISGEN_ISA
