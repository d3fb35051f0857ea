// The family `finite_scalar` on one instruction set. An element costs a hyperbolic tangent (about 30 vector
// instructions for a vector of them). In memory: x read once, the results written once.
#include "../../ops/finite_scalar.h"

#include "../kernels.h"
#include "code_rows.h"

namespace visgen::VISGEN_ISA {
namespace {

// To the nearest integer, halves to even; |value| far below 2^22.
FloatVector rounded(FloatVector value) { return (value + 12582912.0f) - 12582912.0f; }
double rounded(double value) { return (value + 6755399441055744.0) - 6755399441055744.0; }

// One column: its values become those of their levels, and `index` the levels' numbers (0 for NaN, which is noted).
template <class Real>
void to_levels(const LevelColumn<double>& column, bool round_half_up, Real* value, Real* index, Real* has_nan) {
  const Real shift = static_cast<Real>(column.shift), half = static_cast<Real>(column.half);
  const Real offset = static_cast<Real>(column.offset), lowest = static_cast<Real>(column.lowest);
  const Real step = static_cast<Real>(column.step), origin = static_cast<Real>(column.origin);
  for (int t = 0; t < kRows; t += kLaneRows<Real>) {
    const Lane<Real> x = load(value + t);
    Lane<Real> bounded = hyperbolic_tangent(x + shift) * half - offset;
    if (round_half_up) bounded += Real(0.5);
    Lane<Real> level = rounded(bounded);
    if (round_half_up) level = level > bounded ? level - Real(1) : level;  // floor
    level = x == x ? level - lowest : Lane<Real>{};
    store(has_nan + t, x == x ? load(has_nan + t) : Lane<Real>{} + Real(1));
    store(index + t, level);
    store(value + t, (level * step - origin) / origin);
  }
}

template <class Real>
void quantize(const FiniteScalarParameters& p, int64_t first_unit, int64_t last_unit) {
  Columns<Real> columns;
  for_each_tile(p, first_unit, last_unit, [&](int64_t first, int count) {
    load_columns(p, p.x, first, count, columns);
    alignas(64) Real index[kRows], has_nan[kRows] = {};
    int64_t codes[kRows] = {};
    for (int j = p.columns - 1; j >= 0; --j) {  // the first column is the least significant
      to_levels(p.levels->column[j], p.levels->round_half_up, columns.value[j], index, has_nan);
      for (int t = 0; t < kRows; ++t) codes[t] = codes[t] * p.levels->column[j].levels + static_cast<int32_t>(index[t]);
    }
    write_codes(p, first, count, codes, has_nan, columns);
    store_columns(p, p.quantized, first, count, columns);
  });
}

template <class Real>
void backward(const FiniteScalarBackwardParameters& p, int64_t first_unit, int64_t last_unit) {
  Columns<Real> columns, gradients;
  for_each_tile(p, first_unit, last_unit, [&](int64_t first, int count) {
    load_columns(p, p.x, first, count, columns);
    load_columns(p, p.grad_quantized, first, count, gradients);
    for (int j = 0; j < p.columns; ++j) {
      const LevelColumn<double>& column = p.levels->column[j];
      const Real shift = static_cast<Real>(column.shift);
      const Real slope = static_cast<Real>(column.half * column.step / column.origin);
      for (int t = 0; t < kRows; t += kLaneRows<Real>) {
        const Lane<Real> tangent = hyperbolic_tangent(load(columns.value[j] + t) + shift);
        const Lane<Real> g = load(gradients.value[j] + t);
        store(gradients.value[j] + t, g * slope * (Real(1) - tangent * tangent));
      }
    }
    store_columns(p, p.grad_x, first, count, gradients);
  });
}

}  // namespace

const Loops<FiniteScalarParameters, FiniteScalarBackwardParameters, FiniteScalarDecodeParameters>
    finite_scalar_kernels = {
        {quantize<float>, quantize<double>}, {backward<float>, backward<double>}, {decode_rows, decode_rows}};

}  // namespace visgen::VISGEN_ISA
