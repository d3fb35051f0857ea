// Sums over whole images or vectors, of either sign: products and sums are in double.
#pragma once

#include "simd.h"

namespace visgen::VISGEN_ISA {

// The sum of term(values of x, values of y) over all elements, where y may be x.
template <class Real, class Term>
double sum_of_terms(const Real* x, const Real* y, int64_t count, Term term) {
  typedef Real RealVector __attribute__((vector_size(kDoubles * sizeof(Real))));
  DoubleVector sum[2] = {};
  int64_t i = 0;
  for (; i + 2 * kDoubles <= count; i += 2 * kDoubles) {
    RealVector left[2], right[2];
    memcpy(left, x + i, sizeof(left));
    memcpy(right, y + i, sizeof(right));
    for (int j = 0; j < 2; ++j) {
      sum[j] += term(__builtin_convertvector(left[j], DoubleVector), __builtin_convertvector(right[j], DoubleVector));
    }
  }
  sum[0] += sum[1];
  double total = 0;
  for (int lane = 0; lane < kDoubles; ++lane) total += sum[0][lane];
  for (; i < count; ++i) total += term(static_cast<double>(x[i]), static_cast<double>(y[i]));
  return total;
}

template <class Real>
double dot(const Real* x, const Real* y, int64_t count) {
  return sum_of_terms(x, y, count, [](auto left, auto right) { return left * right; });
}

}  // namespace visgen::VISGEN_ISA
