// Calls of the family `finite_scalar`: see code_rows_call.h.
// A Device supplies the loops over units: `quantize`, `backward` and `decode(parameters, device index)`.
#pragma once

#include <cmath>

#include "code_rows_call.h"
#include "finite_scalar.h"

namespace visgen {

enum class Bound : int64_t { atanh, tan, symmetric };

inline FiniteScalarParameters finite_scalar_parameters(const std::vector<int64_t>& levels, int64_t bound) {
  constexpr double kEpsilon = 1e-3;
  constexpr int64_t kMostLevels = 1000;  // beyond, the bound by atanh would reach a level that is none
  constexpr int64_t kMostCodes = (int64_t{1} << 62) - 1;
  STD_TORCH_CHECK(levels.size() >= 1 && levels.size() <= kMaxColumns, "levels must have 1 to ", kMaxColumns,
                  " numbers");
  STD_TORCH_CHECK(bound >= 0 && bound <= static_cast<int64_t>(Bound::symmetric), "bound must be 0, 1 or 2");
  FiniteScalarParameters p;
  const Bound kind = static_cast<Bound>(bound);
  p.round_half_up = kind == Bound::symmetric;
  int64_t codes = 1;
  for (size_t i = 0; i < levels.size(); ++i) {
    const int64_t count = levels[i];
    STD_TORCH_CHECK(count >= 2 && count <= kMostLevels, "levels must lie in [2, ", kMostLevels, "]");
    STD_TORCH_CHECK(codes <= kMostCodes / count, "levels must have a product below 2^62");
    codes *= count;
    LevelColumn<double>& column = p.column[i];
    column.levels = static_cast<int32_t>(count);
    if (kind == Bound::symmetric) {
      column.shift = 0;
      column.half = (count - 1) / 2.0;
      column.offset = -column.half;
      column.lowest = 0;
      column.step = 2;
      column.origin = static_cast<double>(count - 1);
      continue;
    }
    column.half = (count - 1) * (kind == Bound::atanh ? 1 + kEpsilon : 1 - kEpsilon) / 2;
    column.offset = count % 2 ? 0.0 : 0.5;
    const double zero = column.offset / column.half;
    column.shift = kind == Bound::atanh ? std::atanh(zero) : std::tan(zero);
    column.lowest = -static_cast<double>(count / 2);
    column.step = 1;
    column.origin = static_cast<double>(count / 2);
  }
  return p;
}

template <class Device>
struct FiniteScalarOperations {
  static std::tuple<Tensor, Tensor> finite_scalar_quantize(const Tensor& x, std::vector<int64_t> levels,
                                                           int64_t bound) {
    FiniteScalarParameters p = parameters_for(x, levels, bound);
    Tensor quantized = empty_like(x, x.scalar_type()), codes = codes_of(x, p);
    set_rows(p, x, quantized, std::nullopt, kRowsInUnit);
    if (p.partition.units() > 0) Device::quantize(p, x.get_device_index());
    return {quantized, codes};
  }

  static Tensor finite_scalar_quantize_backward(const Tensor& grad_quantized, const Tensor& x,
                                                std::vector<int64_t> levels, int64_t bound) {
    FiniteScalarParameters p = parameters_for(x, levels, bound);
    Tensor grad_x = empty_like(x, x.scalar_type());
    set_rows(p, x, grad_quantized, grad_x, kRowsInUnit);
    if (p.partition.units() > 0) Device::backward(p, x.get_device_index());
    return grad_x;
  }

  static Tensor finite_scalar_decode(const Tensor& codes, std::vector<int64_t> levels, int64_t bound,
                                     ScalarType dtype) {
    FiniteScalarParameters p = finite_scalar_parameters(levels, bound);
    Tensor result = set_decoded(p, codes, static_cast<int64_t>(levels.size()), dtype, kRowsInUnit);
    if (p.partition.units() > 0) Device::decode(p, codes.get_device_index());
    return result;
  }

  static void add_to(Library& m) {
    m.impl("finite_scalar_quantize", TORCH_BOX(&finite_scalar_quantize));
    m.impl("finite_scalar_quantize_backward", TORCH_BOX(&finite_scalar_quantize_backward));
    m.impl("finite_scalar_decode", TORCH_BOX(&finite_scalar_decode));
  }

 private:
  static FiniteScalarParameters parameters_for(const Tensor& x, const std::vector<int64_t>& levels, int64_t bound) {
    STD_TORCH_CHECK(x.dim() >= 1 && x.size(-1) == static_cast<int64_t>(levels.size()),
                    "levels must have one number for each column of x");
    return finite_scalar_parameters(levels, bound);
  }
};

}  // namespace visgen
