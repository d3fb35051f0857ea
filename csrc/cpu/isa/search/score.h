// Scores of codes in double, and the nearest code by them.
#pragma once

#include "../rows.h"

namespace visgen::VISGEN_ISA {

// What the nearest code has least of: Σ(r − e)², −Σr·e or −Σr·e / ‖e‖, in double.
template <Metric metric, class Real>
inline double score(const Real* r, const Real* e, int64_t count) {
  DoubleVector sum[2] = {}, square[2] = {};
  const auto add = [&](DoubleVector left, DoubleVector right, int j) __attribute__((always_inline)) {
    if (metric == Metric::l2) left = right = left - right;
    sum[j] = multiply_add(left, right, sum[j]);
  };
  int64_t i = 0;
  for (; i + 2 * kDoubles <= count; i += 2 * kDoubles) {
    for (int j = 0; j < 2; ++j) {
      const DoubleVector code = load_doubles(e + i + j * kDoubles);
      add(load_doubles(r + i + j * kDoubles), code, j);
      if (metric == Metric::cosine) square[j] = multiply_add(code, code, square[j]);
    }
  }
  for (; i + kDoubles <= count; i += kDoubles) {
    const DoubleVector code = load_doubles(e + i);
    add(load_doubles(r + i), code, 0);
    if (metric == Metric::cosine) square[0] = multiply_add(code, code, square[0]);
  }
  double total = sum_of(sum[0] + sum[1]), norm = sum_of(square[0] + square[1]);
  for (; i < count; ++i) {
    const double left = r[i], right = e[i];
    total += metric == Metric::l2 ? (left - right) * (left - right) : left * right;
    if (metric == Metric::cosine) norm += right * right;
  }
  if (metric == Metric::l2) return total;
  if (metric == Metric::dot) return -total;
  return norm > 0 ? -total / __builtin_sqrt(norm) : 0;
}

// The best code so far; among equals the first. A code with NaN or infinity is never taken.
struct Nearest {
  double score = 0;
  int64_t code = -1;

  template <class Real>
  VISGEN_HOST_DEVICE void consider(double other, int64_t index, const Real* e, int64_t count) {
    if (better(other, index) && all_finite(e, count)) score = other, code = index;
  }

  VISGEN_HOST_DEVICE bool better(double other, int64_t index) const {
    return code < 0 ? other == other : other < score || (other == score && index < code);
  }
};

template <Metric metric, class Real>
inline void consider_codes(Nearest& nearest, const Real* r, const Real* codebook, int64_t first, int64_t last,
                           int64_t dimensions) {
  for (int64_t k = first; k < last; ++k) {
    const Real* e = codebook + k * dimensions;
    nearest.consider(score<metric>(r, e, dimensions), k, e, dimensions);
  }
}

}  // namespace visgen::VISGEN_ISA
