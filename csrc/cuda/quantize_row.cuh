// What both searches do with a row, a warp a row: score a code in double, take a code, and add up the codes taken.
#pragma once

#include "embedding.cuh"

namespace visgen {

// A code and how far it is: the smaller value is nearer, and of equal values the lower code. None yet: −1.
struct Candidate {
  double value = 0;
  int64_t code = -1;
};

__device__ __forceinline__ Candidate nearer(const Candidate& a, const Candidate& b) {
  if (a.code < 0 || b.code < 0) return a.code < 0 ? b : a;
  return b.value < a.value || (b.value == a.value && b.code < a.code) ? b : a;
}

// The terms of one code's scores, a lane's share or their sum.
struct CodeTerms {
  double square = 0;  // Σ e²
  bool finite = true;

  template <class Real>
  __device__ __forceinline__ void add(const Real (&e)[kSpan]) {
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      square += static_cast<double>(e[i]) * e[i];
      finite &= is_finite(e[i]);
    }
  }
};

// A lane's share of Σ (r − e)² or of −Σ r·e.
template <class Real>
__device__ __forceinline__ double partial_score(Metric metric, const Real (&r)[kSpan], const Real (&e)[kSpan]) {
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kSpan; ++i) {
    const double difference = static_cast<double>(r[i]) - e[i];
    sum += metric == Metric::l2 ? difference * difference : -static_cast<double>(r[i]) * e[i];
  }
  return sum;
}

__device__ __forceinline__ double score_of(Metric metric, double sum, double code_square) {
  if (metric != Metric::cosine) return sum;
  return code_square > 0 ? sum / sqrt(code_square) : 0.0;
}

// What a row remembers from depth to depth.
struct RowState {
  int64_t active = 0;     // depths
  bool finite = true;     // the residual
  bool poisoned = false;  // an active depth found a residual that was not finite
};

__device__ __forceinline__ int64_t active_depths_of(const QuantizeParameters& p, int64_t row) {
  return p.active_depths ? p.active_depths[row] : p.depth;
}

// Subtracts the code's embedding from the residual, and writes the code and the errors. `residual` has load(begin, r)
// and store(begin, r).
template <class Real, class Residual>
__device__ __forceinline__ void take_code(bool wide, const QuantizeParameters& p, int64_t row, int64_t q, int64_t code,
                                          Residual residual, RowState& state) {
  const int64_t D = p.codebooks.dimensions;
  const bool active = q < state.active;
  Real error = Real(0);
  if (active) {
    if (!state.finite) {
      code = 0;
      state.poisoned = true;
    }
    double sum = 0;
    bool finite = true;
    for_each_tile(D, [&](int64_t begin) {
      Real r[kSpan], e[kSpan];
      residual.load(begin, r);
      load_embedding(wide, p.codebooks, q, code, begin, e);
#pragma unroll
      for (int i = 0; i < kSpan; ++i) {
        r[i] -= e[i];
        sum += static_cast<double>(r[i]) * r[i];
        finite &= is_finite(r[i]);
      }
      residual.store(begin, r);
    });
    error = static_cast<Real>(state.finite ? warp_sum(sum) / static_cast<double>(D) : NAN);
    state.finite = all_lanes(finite);
  }
  if (lane_index() != 0) return;
  p.codes[row * p.depth + q] = active ? code : -1;
  if (p.commitment) static_cast<Real*>(p.commitment)[row * p.depth + q] = error;
  if (p.codebook_error) static_cast<Real*>(p.codebook_error)[row * p.depth + q] = error;
}

// Writes the sum of the codes that the same warp has taken.
template <class Real>
__device__ __forceinline__ void write_quantized(bool wide, const QuantizeParameters& p, int64_t row,
                                                const RowState& state) {
  if (!p.quantized) return;
  sync_warp();  // for the codes
  for_each_tile(p.codebooks.dimensions, [&](int64_t begin) {
    Real total[kSpan] = {0, 0, 0, 0}, e[kSpan];
    for (int64_t q = 0; q < p.depth; ++q) {
      load_embedding(wide, p.codebooks, q, p.codes[row * p.depth + q], begin, e);
#pragma unroll
      for (int i = 0; i < kSpan; ++i) total[i] += e[i];
    }
#pragma unroll
    for (int i = 0; i < kSpan; ++i) total[i] = state.poisoned ? Real(NAN) : total[i];
    store_row(wide, p.quantized, p.dtype, p.codebooks.dimensions, row, begin, total);
  });
}

}  // namespace visgen
