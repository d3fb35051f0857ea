// The element types that operations accept, as plain data, so that kernels need no tensor library.
#pragma once

#include <cstdint>

namespace visgen {

enum class DType : uint8_t { uint8, float16, bfloat16, float32, float64 };

constexpr int64_t size_of(DType dtype) {
  constexpr int64_t sizes[] = {1, 2, 2, 4, 8};
  return sizes[static_cast<int>(dtype)];
}

}  // namespace visgen
