// From tensors to what kernels know: pointers, sizes, strides and element types.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <initializer_list>
#include <optional>
#include <vector>

#include "../common/layout.h"

namespace visgen {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline DType dtype_of(ScalarType type, const char* name) {
  switch (type) {
    case ScalarType::Byte:
      return DType::uint8;
    case ScalarType::Half:
      return DType::float16;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Double:
      return DType::float64;
    default:
      STD_TORCH_CHECK(false, name, " must be uint8, float16, bfloat16, float32 or float64");
  }
}

// The type of arithmetic.
inline ScalarType real_type_of(bool in_double) { return in_double ? ScalarType::Double : ScalarType::Float; }
inline ScalarType real_of(const Tensor& x) { return real_type_of(x.scalar_type() == ScalarType::Double); }

inline bool same_sizes(const Tensor& left, const Tensor& right) {
  if (left.dim() != right.dim()) return false;
  for (int64_t d = 0; d < left.dim(); ++d) {
    if (left.size(d) != right.size(d)) return false;
  }
  return true;
}

// Uninitialised, with the sizes and memory layout of `like`.
inline Tensor empty_like(const Tensor& like, ScalarType dtype) {
  using torch::stable::detail::from;
  std::array<StableIValue, 6> stack{from(like),         from(std::optional<ScalarType>(dtype)),
                                    from(std::nullopt), from(std::nullopt),
                                    from(std::nullopt), from(std::nullopt)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::empty_like", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

inline Tensor empty_on(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype) {
  return torch::stable::new_empty(like, sizes, dtype);
}

// Collects the operands of one call, all of the same sizes [samples, *sample] (or all of it one sample), and merges
// adjacent dimensions that are adjacent in every one of them.
class Batch {
 public:
  enum Kind { kOneSample = 0, kSamples = 1 };  // how many dimensions number the samples

  explicit Batch(const Tensor& first, Kind kind = kSamples) : first_(first), leading_(kind) {
    STD_TORCH_CHECK(first.dim() >= 1 && first.dim() <= kMaxDimensions + leading_, "x must have 1 to ",
                    kMaxDimensions + leading_, " dimensions, got ", first.dim());
  }

  void add(const OptionalTensor& tensor, Operand& operand, const char* name) {
    if (!tensor) return;
    STD_TORCH_CHECK(same_sizes(*tensor, first_), name, " must have the shape of x");
    STD_TORCH_CHECK(tensor->device() == first_.device(), name, " must be on the device of x");
    operand.dtype = dtype_of(tensor->scalar_type(), name);
    operand.data = tensor->data_ptr();
    operand.sample_stride = leading_ ? tensor->stride(0) : 0;
    for (int64_t d = leading_; d < tensor->dim(); ++d) operand.strides[d - leading_] = tensor->stride(d);
    operands_.push_back(&operand);
  }

  SampleShape merge() {
    SampleShape shape;
    shape.samples = leading_ ? first_.size(0) : 1;
    shape.dimensions = 0;
    for (int64_t d = leading_; d < first_.dim(); ++d) {
      const int64_t size = first_.size(d);
      shape.elements *= size;
      if (size == 1) continue;
      if (shape.dimensions > 0 && adjacent(shape.dimensions - 1, d - leading_, size)) {
        shape.sizes[shape.dimensions - 1] *= size;
      } else {
        shape.sizes[shape.dimensions++] = size;
      }
      for (Operand* operand : operands_) operand->strides[shape.dimensions - 1] = operand->strides[d - leading_];
    }
    if (shape.dimensions == 0) {  // a sample of one element
      shape.dimensions = 1;
      shape.sizes[0] = 1;
      for (Operand* operand : operands_) operand->strides[0] = 1;
    }
    return shape;
  }

 private:
  bool adjacent(int outer, int64_t inner, int64_t inner_size) const {
    for (const Operand* operand : operands_) {
      if (operand->strides[outer] != operand->strides[inner] * inner_size) return false;
    }
    return true;
  }

  const Tensor& first_;
  int leading_;
  std::vector<Operand*> operands_;
};

inline void check_seeds(const Tensor& seeds, const Tensor& x) {
  STD_TORCH_CHECK(seeds.scalar_type() == ScalarType::Long && seeds.dim() == 1 && seeds.size(0) == x.size(0) &&
                      seeds.is_contiguous(),
                  "seeds must be a contiguous int64 tensor with one seed a sample");
  STD_TORCH_CHECK(seeds.device() == x.device(), "seeds must be on the device of x");
}

}  // namespace visgen
