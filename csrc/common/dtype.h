// The element types that operations accept, as plain data, so that kernels need no tensor library.
#pragma once

#include <cstdint>

namespace visgen {

enum class DType : uint8_t { uint8, float16, bfloat16, float32, float64 };

constexpr int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::uint8:
      return 1;
    case DType::float16:
    case DType::bfloat16:
      return 2;
    case DType::float32:
      return 4;
    case DType::float64:
      return 8;
  }
  return 0;
}

}  // namespace visgen
