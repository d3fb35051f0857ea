// Calls of the family `finite_scalar`.
#pragma once

#include <cmath>

#include "code_rows_call.h"
#include "finite_scalar.h"

namespace visgen {

enum class Bound : int64_t { atanh, tan, symmetric };

inline Levels<double> levels_of(const std::vector<int64_t>& levels, int64_t bound) {
  constexpr double kEpsilon = 1e-3;
  constexpr int64_t kMostLevels = 1000;  // beyond, the bound by atanh would reach a level that is none
  constexpr int64_t kMostCodes = (int64_t{1} << 62) - 1;
  check(levels.size() >= 1 && levels.size() <= kMaxColumns, "levels must have 1 to ", kMaxColumns, " numbers");
  check(bound >= 0 && bound <= static_cast<int64_t>(Bound::symmetric), "bound must be 0, 1 or 2");
  Levels<double> result;
  const Bound kind = static_cast<Bound>(bound);
  result.round_half_up = kind == Bound::symmetric;
  int64_t codes = 1;
  for (size_t i = 0; i < levels.size(); ++i) {
    const int64_t count = levels[i];
    check(count >= 2 && count <= kMostLevels, "levels must lie in [2, ", kMostLevels, "]");
    check(codes <= kMostCodes / count, "levels must have a product below 2^62");
    codes *= count;
    LevelColumn<double>& column = result.column[i];
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
  return result;
}

template <class Device>
struct FiniteScalarOperations {
  static std::tuple<Tensor, Tensor> finite_scalar_quantize(const Tensor& x, std::vector<int64_t> counts,
                                                           int64_t bound) {
    const Levels<double> levels = levels_for(x, counts, bound);
    FiniteScalarParameters p;
    p.levels = &levels;
    Tensor quantized = empty_like(x, x.scalar_type()),
           codes = empty_for(p.codes, x, sizes_of_rows(x), ScalarType::Long);
    run_rows<Device>(p, x, {{x, p.x, "x"}, {quantized, p.quantized, "quantized"}});
    return {quantized, codes};
  }

  static Tensor finite_scalar_quantize_backward(const Tensor& grad_quantized, const Tensor& x,
                                                std::vector<int64_t> counts, int64_t bound) {
    const Levels<double> levels = levels_for(x, counts, bound);
    FiniteScalarBackwardParameters p;
    p.levels = &levels;
    Tensor grad_x = empty_like(x, x.scalar_type());
    run_rows<Device>(
        p, x, {{x, p.x, "x"}, {grad_quantized, p.grad_quantized, "grad_quantized"}, {grad_x, p.grad_x, "grad_x"}});
    return grad_x;
  }

  static Tensor finite_scalar_decode(const Tensor& codes, std::vector<int64_t> counts, int64_t bound,
                                     ScalarType dtype) {
    return decoded<Device, FiniteScalarDecodeParameters>(levels_of(counts, bound), codes,
                                                         static_cast<int64_t>(counts.size()), dtype);
  }

  VISGEN_OPERATIONS(finite_scalar_quantize, finite_scalar_quantize_backward, finite_scalar_decode)

 private:
  static Levels<double> levels_for(const Tensor& x, const std::vector<int64_t>& counts, int64_t bound) {
    check_columns(x);
    check(x.size(-1) == static_cast<int64_t>(counts.size()), "levels must have one number for each column of x");
    return levels_of(counts, bound);
  }
};

}  // namespace visgen
