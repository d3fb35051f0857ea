#include "code_sums.h"

#include "rows.cuh"

namespace visgen {
namespace {

// Whether no residual up to depth q has NaN or infinity. Called by whole warps.
template <class Real, bool wide>
__device__ bool is_counted(const CodeSums& p, int64_t row, int64_t q) {
  bool finite = true;
  for_each_tile(p.codebooks.dimensions, [&](int64_t begin) {
    Real r[kSpan], e[kSpan];
    load_row<wide>(p.base, p.dtype, p.codebooks.dimensions, row, begin, r);
    for (int64_t j = 0; j < q; ++j) {
      load_embedding<wide>(p.codebooks, j, p.codes[row * p.depth + j], begin, e);
      for (int i = 0; i < kSpan; ++i) r[i] -= e[i];
    }
    for (int i = 0; i < kSpan; ++i) finite &= is_finite(r[i]);
  });
  return all_lanes(finite);
}

template <class Real, bool wide>
__global__ void __launch_bounds__(kRowThreads) sum_rows(CodeSums p, int64_t books) {
  const int64_t key = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + warp_index();
  const int64_t K = p.codebooks.codes, D = p.codebooks.dimensions;
  if (key >= books * K) return;
  const int64_t first = p.shared ? 0 : key / K, last = p.shared ? p.depth : first + 1, code = key % K;
  double count = 0;
  for (int64_t tile = 0; tile == 0 || tile < D; tile += kWarpSize * kSpan) {
    const int64_t begin = tile + lane_index() * kSpan;
    double sums[kSpan] = {0, 0, 0, 0};
    count = 0;
    for (int64_t q = first; q < last; ++q) {
      for (int64_t row = 0; row < p.rows; ++row) {
        if (p.codes[row * p.depth + q] != code || (p.finite_only && !is_counted<Real, wide>(p, row, q))) continue;
        count += 1;
        if (begin >= D) continue;
        Real r[kSpan], e[kSpan];
        load_row<wide>(p.base, p.dtype, D, row, begin, r);
        for (int64_t j = 0; p.codebooks.data && j < q + p.subtracts_own; ++j) {
          load_embedding<wide>(p.codebooks, j, p.codes[row * p.depth + j], begin, e);
          for (int i = 0; i < kSpan; ++i) r[i] -= e[i];
        }
        const double weight =
            p.scale * (p.weights ? static_cast<double>(static_cast<const Real*>(p.weights)[row * p.depth + q]) : 1.0);
        for (int i = 0; i < kSpan; ++i) sums[i] += weight * r[i];
      }
    }
    if (begin < D) store_row_as<wide, Real>(p.sums, D, key, begin, sums);
  }
  if (p.counts && lane_index() == 0) static_cast<Real*>(p.counts)[key] = static_cast<Real>(count);
}

}  // namespace

void sum_by_code(const CodeSums& p, const Tensor& like) {
  const OnDevice guard(like.get_device_index());
  const Stream stream = current_stream(like.get_device_index());
  const int64_t D = p.codebooks.dimensions, books = p.shared ? 1 : p.depth;
  const DType real = real_type(p.in_double);
  const bool wide =
      has_wide_rows(p.base, p.dtype, D) && has_wide_rows(p.codebooks.data, real, D) && has_wide_rows(p.sums, real, D);
  const auto run = [&]<class Real, bool is_wide>() {
    launch<sum_rows<Real, is_wide>>(warp_a_row(books * p.codebooks.codes), stream, p, books);
  };
  if (p.in_double) return run.template operator()<double, false>();
  if (wide) return run.template operator()<float, true>();
  run.template operator()<float, false>();
}

}  // namespace visgen
