// Rows of operands on a GPU, a few columns at a time.
//
// With a `span` above 1 tiles are moved in single accesses, with 1 a column at a time, whatever the layout.
#pragma once

#include <algorithm>

#include "../ops/operand_rows.h"
#include "elements.cuh"
#include "warp.cuh"

namespace visgen {

// Whether tiles of `span` columns of a row can be moved in single accesses; one number for all columns can.
inline bool has_wide_columns(const Operand& operand, const SampleShape& shape, int span) {
  const int64_t bytes = size_of(operand.dtype), alignment = std::min<int64_t>(bytes * span, kWideBytes);
  const int last = shape.dimensions - 1;
  if (!operand.data || operand.strides[last] == 0) return true;
  bool wide = operand.strides[last] == 1 && reinterpret_cast<uintptr_t>(operand.data) % alignment == 0;
  for (int d = 0; d < last; ++d) wide = wide && operand.strides[d] * bytes % alignment == 0;
  return wide;
}

// A row of an operand: which one, and how far apart its columns are.
struct Row {
  int64_t offset = 0, stride = 0;

  Row() = default;
  __device__ __forceinline__ Row(const Operand& operand, const SampleShape& shape, int64_t row) {
    if (!operand.data) return;
    offset = row_offset(operand, shape, row);
    stride = column_stride(operand, shape);
  }
};

template <class Real, int span>
__device__ __forceinline__ void fill(Real value, Real (&out)[span]) {
  VISGEN_UNROLL
  for (int i = 0; i < span; ++i) out[i] = value;
}

template <class Real, int span>
__device__ __forceinline__ void load_columns(const Operand& operand, const Row& row, int64_t begin, Real (&out)[span]) {
  visit_floating(operand.dtype, [&]<class Stored>() {
    const Stored* data = static_cast<const Stored*>(operand.data) + row.offset;
    if (span == 1 || row.stride == 0) return fill(convert<Real>(data[begin * row.stride]), out);
    const auto values = load_vec<span>(data + begin);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) out[i] = convert<Real>(values[i]);
  });
}

template <class Real, int span>
__device__ __forceinline__ void load_or_zero(const Operand& operand, const Row& row, int64_t begin, Real (&out)[span]) {
  operand.data ? load_columns(operand, row, begin, out) : fill(Real(0), out);
}

template <class Real, int span>
__device__ __forceinline__ void store_columns(const Operand& operand, const Row& row, int64_t begin,
                                              const Real (&in)[span]) {
  if (!operand.data) return;
  visit_floating(operand.dtype, [&]<class Stored>() {
    Stored* data = static_cast<Stored*>(operand.data) + row.offset;
    if constexpr (span == 1) {
      data[begin * row.stride] = convert<Stored>(in[0]);
    } else {
      Vec<Stored, span> values;
      VISGEN_UNROLL
      for (int i = 0; i < span; ++i) values[i] = convert<Stored>(in[i]);
      store_vec(data + begin, values);
    }
  });
}

// Calls body(first column) for the lane's tiles of a row.
template <int span, class Body>
__device__ __forceinline__ void for_each_tile(int64_t columns, Body body) {
  for (int64_t begin = lane_index() * span; begin < columns; begin += kWarpSize * span) body(begin);
}

// The sum over a row of term(first column, values), tile by tile in double.
template <class Real, int span, class Term>
__device__ __forceinline__ double sum_of_row(int64_t columns, Term term) {
  double sum = 0;
  for_each_tile<span>(columns, [&](int64_t begin) {
    Real values[span], total = 0;
    term(begin, values);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) total += values[i];
    sum += total;
  });
  return warp_sum(sum);
}

}  // namespace visgen
