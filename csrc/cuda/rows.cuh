// Rows of contiguous [rows, dimensions] matrices: a warp takes a row, and its lanes tiles of kSpan elements in turn.
//
// `wide` says that tiles can be moved in single accesses, which rows of a multiple of kSpan elements allow.
#pragma once

#include "elements.cuh"
#include "warp.cuh"

namespace visgen {

constexpr int kSpan = 4;
constexpr int kRowsPerBlock = kBlockThreads / kWarpSize;

inline bool has_wide_rows(const void* data, DType dtype, int64_t dimensions) {
  const int64_t bytes = size_of(dtype) * kSpan, alignment = bytes < kWideBytes ? bytes : kWideBytes;
  return dimensions % kSpan == 0 && reinterpret_cast<uintptr_t>(data) % alignment == 0;
}

// Calls call<type of arithmetic, wide>() as constants.
template <class Call>
void choose_row(bool in_double, bool wide, Call call) {
  if (in_double) return wide ? call.template operator()<double, true>() : call.template operator()<double, false>();
  wide ? call.template operator()<float, true>() : call.template operator()<float, false>();
}

inline DType real_type(bool in_double) { return in_double ? DType::float64 : DType::float32; }

template <class Real>
__device__ __forceinline__ bool is_finite(Real value) {
  return value - value == Real(0);
}

// Calls body(first element of a tile) for the lane's tiles of a row.
template <class Body>
__device__ __forceinline__ void for_each_tile(int64_t elements, Body body) {
  for (int64_t begin = lane_index() * kSpan; begin < elements; begin += kWarpSize * kSpan) body(begin);
}

template <class Stored, class Real>
__device__ __forceinline__ void load_row_as(bool wide, const void* data, int64_t elements, int64_t row, int64_t begin,
                                            Real (&out)[kSpan]) {
  const Stored* from = static_cast<const Stored*>(data) + row * elements + begin;
  const auto values = wide ? load_vec<kSpan>(from) : load_tail<kSpan>(from, elements - begin, Stored(0.0f));
#pragma unroll
  for (int i = 0; i < kSpan; ++i) out[i] = convert<Real>(values[i]);
}

// Elements past the end of the row read as 0, and so does absent data.
template <class Real>
__device__ __forceinline__ void load_row(bool wide, const void* data, DType dtype, int64_t elements, int64_t row,
                                         int64_t begin, Real (&out)[kSpan]) {
  if (!data) {
#pragma unroll
    for (int i = 0; i < kSpan; ++i) out[i] = Real(0);
    return;
  }
  visit_floating(dtype, [&]<class Stored>() { load_row_as<Stored>(wide, data, elements, row, begin, out); });
}

template <class Stored, class Real>
__device__ __forceinline__ void store_row_as(bool wide, void* data, int64_t elements, int64_t row, int64_t begin,
                                             const Real (&in)[kSpan]) {
  Vec<Stored, kSpan> values;
#pragma unroll
  for (int i = 0; i < kSpan; ++i) values[i] = convert<Stored>(in[i]);
  Stored* to = static_cast<Stored*>(data) + row * elements + begin;
  if (wide) {
    store_vec(to, values);
  } else {
    store_tail(to, elements - begin, values);
  }
}

// Elements past the end of the row are dropped.
template <class Real>
__device__ __forceinline__ void store_row(bool wide, void* data, DType dtype, int64_t elements, int64_t row,
                                          int64_t begin, const Real (&in)[kSpan]) {
  visit_floating(dtype, [&]<class Stored>() { store_row_as<Stored>(wide, data, elements, row, begin, in); });
}

}  // namespace visgen
