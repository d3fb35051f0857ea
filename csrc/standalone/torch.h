// Tensors without torch.
#pragma once

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace visgen::standalone {

struct Array {
  int32_t dtype;
  std::vector<int64_t> sizes, strides;
  std::shared_ptr<void> memory;
  char* data;  // of the first element

  int64_t elements() const;
  int64_t extent() const;  // bytes from the first element to behind the last
  bool is_contiguous() const;
};

Array made(int32_t dtype, std::vector<int64_t> sizes, std::vector<int64_t> strides);

using Function = void (*)(StableIValue* stack, uint64_t arguments, uint64_t results);
std::map<std::string, Function>& functions();  // the operations, by their names

}  // namespace visgen::standalone
