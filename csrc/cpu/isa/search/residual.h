// A row's residual, from depth to depth, and what its code decides.
#pragma once

#include "../../search/search.h"
#include "score.h"

namespace visgen::VISGEN_ISA {

// after ← real(r − e), in place where after is r or absent where it is null; returns Σ after².
template <class Real>
inline double subtract(const Real* r, const Real* e, Real* after, int64_t count) {
  typedef typename RealVectorOf<Real>::Type RealVector;
  DoubleVector sum[2] = {};
  const auto subtract_at = [&](int64_t i, int j) __attribute__((always_inline)) {
    RealVector left, right;
    memcpy(&left, r + i, sizeof(left));
    memcpy(&right, e + i, sizeof(right));
    left -= right;
    if (after) memcpy(after + i, &left, sizeof(left));
    const DoubleVector exact = to_doubles(left);
    sum[j] = multiply_add(exact, exact, sum[j]);
  };
  int64_t i = 0;
  for (; i + 2 * kDoubles <= count; i += 2 * kDoubles) {
    subtract_at(i, 0);
    subtract_at(i + kDoubles, 1);
  }
  for (; i + kDoubles <= count; i += kDoubles) subtract_at(i, 0);
  double total = sum_of(sum[0] + sum[1]);
  for (; i < count; ++i) {
    const Real difference = r[i] - e[i];
    if (after) after[i] = difference;
    total += static_cast<double>(difference) * difference;
  }
  return total;
}

inline bool active(const QuantizeParameters& call, int64_t row, int64_t depth) {
  return !call.active_depths || depth < call.active_depths[row];
}

// A row's residual at this depth: x at the first one.
template <class Real>
inline const Real* residual(const Search& search, int64_t row, Real* buffer) {
  const QuantizeParameters& call = *search.call;
  const int64_t dimensions = call.codebooks.dimensions;
  if (search.depth > 0) return static_cast<const Real*>(search.residuals) + row * dimensions;
  return real_row(call.x, call.dtype, row, dimensions, buffer);
}

// Writes what a row's code at this depth decides: the code, both errors, and the residual of the next depth.
template <class Real>
inline void finish_row(const Search& search, int64_t row, const Real* r, int64_t code, bool finite) {
  const QuantizeParameters& call = *search.call;
  const int64_t dimensions = call.codebooks.dimensions, at = row * call.depth + search.depth;
  call.codes[at] = code;
  if (!call.commitment) return;
  Real* after = search.depth + 1 < call.depth ? static_cast<Real*>(search.residuals) + row * dimensions : nullptr;
  const Real* e = static_cast<const Real*>(search.codebook) + code * dimensions;
  const double sum = subtract(r, e, after, dimensions);
  if (!finite) search.broken[row] = 1;
  const Real mean = finite ? static_cast<Real>(sum / static_cast<double>(dimensions)) : static_cast<Real>(NAN);
  static_cast<Real*>(call.commitment)[at] = static_cast<Real*>(call.codebook_error)[at] = mean;
}

template <class Real>
inline void skip_row(const Search& search, int64_t row) {
  const QuantizeParameters& call = *search.call;
  const int64_t at = row * call.depth + search.depth;
  call.codes[at] = -1;
  if (call.commitment) static_cast<Real*>(call.commitment)[at] = static_cast<Real*>(call.codebook_error)[at] = 0;
}

}  // namespace visgen::VISGEN_ISA
