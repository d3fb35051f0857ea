// Gradients of what rows share, on a GPU: a few numbers for each unit of rows, added up in double.
#include "shared_gradient.h"

#include "operand_rows.cuh"

namespace visgen {
namespace {

constexpr int kWarps = kBlockThreads / kWarpSize;

// A block a group and 32 of its columns: warps take units in turn. Where all columns have one number, all of them.
template <class Real>
__global__ void __launch_bounds__(kBlockThreads) add_units(SharedGradient p) {
  VISGEN_SHARED(double, totals, kBlockThreads);
  const int64_t stride = column_stride(p.gradient, p.shape), units = p.members * p.units_per_run;
  const int64_t first = stride ? static_cast<int64_t>(blockIdx.x) * kWarpSize + lane_index() : lane_index();
  const int64_t last = stride ? (first < p.columns ? first + 1 : first) : p.columns;
  for (int64_t group = blockIdx.y; group < p.groups; group += gridDim.y) {
    double total = 0;
    for (int64_t at = warp_index(); at < units; at += kWarps) {
      const int64_t member = divide(at, p.units_per_run), run = member_at(p, group, member).run;
      const double* part = p.partial_sums + (run * p.units_per_run + at - member * p.units_per_run) * p.unit_stride;
      for (int64_t column = first; column < last; column += kWarpSize) total += part[column];
    }
    if (!stride) total = warp_sum(total);
    totals[threadIdx.x] = total;
    sync_block();
    total = 0;
    for (int warp = 0; warp < kWarps; ++warp) total += totals[warp * kWarpSize + lane_index()];
    if (warp_index() == 0 && (stride ? first < p.columns : lane_index() == 0)) {
      const Real result[1] = {static_cast<Real>(total)};
      Row row;
      row.offset = member_at(p, group, 0).offset, row.stride = stride;
      store_columns(p.gradient, row, stride ? first : 0, result);
    }
    sync_block();
  }
}

}  // namespace

void add_up(const SharedGradient& p, Stream stream) {
  const int64_t across = column_stride(p.gradient, p.shape) ? (p.columns + kWarpSize - 1) / kWarpSize : 1;
  const dim3 grid(static_cast<unsigned>(across), static_cast<unsigned>(std::min<int64_t>(p.groups, 65535)));
  p.in_double ? launch<add_units<double>>({grid, dim3(kBlockThreads)}, stream, p)
              : launch<add_units<float>>({grid, dim3(kBlockThreads)}, stream, p);
}

}  // namespace visgen
