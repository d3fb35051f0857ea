// The search that looks at every code in double.
//
// A block takes kRowsPerBlock rows, whose residuals stay in shared memory (in global memory where they do not fit).
// Each warp loads every eighth code once for all of them. An element of a pair of row and code takes a subtraction and
// a multiply-add in double (for dot products the latter alone) and 4 bytes of shared memory, 8 in float64; of cache,
// where the codes come from, an eighth of that. Counted: no GPU has measured what share of either ceiling that reaches.
#include "quantize_row.cuh"
#include "quantize_search.h"

namespace visgen {
namespace {

template <class Real>
struct StoredResidual {
  Real* data;

  __device__ __forceinline__ void load(int64_t begin, Real (&r)[kSpan]) const {
    const auto values = load_vec<kSpan>(data + begin);
#pragma unroll
    for (int i = 0; i < kSpan; ++i) r[i] = values[i];
  }
  __device__ __forceinline__ void store(int64_t begin, const Real (&r)[kSpan]) const {
    Vec<Real, kSpan> values;
#pragma unroll
    for (int i = 0; i < kSpan; ++i) values[i] = r[i];
    store_vec(data + begin, values);
  }
};

// The nearest among every eighth code to each of the block's residuals.
template <class Real, bool wide>
__device__ void scan_codes(const QuantizeParameters& p, int64_t q, const Real* residuals, int64_t stride,
                           Candidate (&best)[kRowsPerBlock]) {
  const int64_t D = p.codebooks.dimensions;
  for (int64_t code = warp_index(); code < p.codebooks.codes; code += kRowsPerBlock) {
    CodeTerms terms;
    double sums[kRowsPerBlock] = {};
    for_each_tile(D, [&](int64_t begin) {
      Real e[kSpan], r[kSpan];
      load_embedding(wide, p.codebooks, q, code, begin, e);
      terms.add(e);
#pragma unroll
      for (int i = 0; i < kRowsPerBlock; ++i) {
        const auto values = load_vec<kSpan>(residuals + i * stride + begin);
#pragma unroll
        for (int j = 0; j < kSpan; ++j) r[j] = values[j];
        sums[i] += partial_score(p.metric, r, e);
      }
    });
    if (!all_lanes(terms.finite)) continue;
    const double square = p.metric == Metric::cosine ? warp_sum(terms.square) : 0.0;
#pragma unroll
    for (int i = 0; i < kRowsPerBlock; ++i) {
      best[i] = nearer(best[i], {score_of(p.metric, warp_sum(sums[i]), square), code});
    }
  }
}

template <class Real, bool wide>
__global__ void __launch_bounds__(kBlockThreads) scan(QuantizeParameters p, Real* scratch, int64_t stride) {
  VISGEN_SHARED(Candidate[kRowsPerBlock], found, kRowsPerBlock);  // of each warp, for each row
  const int64_t D = p.codebooks.dimensions, first = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock;
  const int64_t row = first + warp_index();
  const bool exists = row < p.rows;
  Real* residuals = scratch ? scratch + first * stride : dynamic_shared<Real>();
  const StoredResidual<Real> residual{residuals + warp_index() * stride};
  RowState state;
  if (exists) state.active = active_depths_of(p, row);
  bool finite = true;
  for_each_tile(D, [&](int64_t begin) {
    Real r[kSpan] = {0, 0, 0, 0};
    if (exists) load_row(wide, p.x, p.dtype, D, row, begin, r);
#pragma unroll
    for (int i = 0; i < kSpan; ++i) finite &= is_finite(r[i]);
    residual.store(begin, r);
  });
  state.finite = all_lanes(finite);
  for (int64_t q = 0; q < p.depth; ++q) {
    sync_block();  // for the residuals
    Candidate best[kRowsPerBlock];
    scan_codes<Real, wide>(p, q, residuals, stride, best);
    if (lane_index() == 0) {
#pragma unroll
      for (int i = 0; i < kRowsPerBlock; ++i) found[warp_index()][i] = best[i];
    }
    sync_block();
    Candidate nearest;
    for (int i = 0; i < kRowsPerBlock; ++i) nearest = nearer(nearest, found[i][warp_index()]);
    if (exists) take_code<Real>(wide, p, row, q, nearest.code < 0 ? 0 : nearest.code, residual, state);
  }
  if (exists) write_quantized<Real>(wide, p, row, state);
}

template <class Real, bool wide>
void run_scan(const QuantizeParameters& p, const Tensor& like, Stream stream) {
  const int64_t stride = (p.codebooks.dimensions + kSpan - 1) / kSpan * kSpan;
  LaunchShape shape = warp_grid(p.rows);
  const size_t bytes = kRowsPerBlock * stride * sizeof(Real);
  const bool fits =
      bytes + sizeof(Candidate) * kRowsPerBlock * kRowsPerBlock <= shared_memory_limit(like.get_device_index());
  if (fits) shape.dynamic_shared_bytes = bytes;
  const Tensor scratch = empty_on(like, {fits ? 0 : shape.grid.x * kRowsPerBlock * stride},
                                  sizeof(Real) == 8 ? ScalarType::Double : ScalarType::Float);
  Real* data = fits ? nullptr : static_cast<Real*>(scratch.mutable_data_ptr());
  launch<scan<Real, wide>>(shape, stream, p, data, stride);
}

}  // namespace

void search_by_scan(const QuantizeParameters& p, const Tensor& like) {
  const OnDevice on(like.get_device_index());
  const int64_t D = p.codebooks.dimensions;
  const bool wide = has_wide_rows(p.x, p.dtype, D) && has_wide_rows(p.quantized, p.dtype, D) &&
                    has_wide_rows(p.codebooks.data, real_type(p.in_double), D);
  choose_row(p.in_double, wide, [&]<class Real, bool is_wide>() { run_scan<Real, is_wide>(p, like, on.stream); });
}

}  // namespace visgen
