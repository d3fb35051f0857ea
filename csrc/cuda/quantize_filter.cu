// The search that scores all codes on the tensor cores, and looks in double only at those that they cannot rule out.
//
// A block takes up to 128 rows through all depths. Their residuals stay in shared memory in 4 bytes an element: the
// upper half is the operand A of the tensor cores, the lower half makes the float whole. Codes stream through three
// stages of 16 KB, each copied while the two before are multiplied. A warp multiplies 64 rows with 64 codes.
//
// What N rows of D dimensions, K codes and Q depths take, and in brackets N = 65536, D = 256, K = 16384, Q = 4:
//   tensor cores    2·N·K·D·Q operations in bfloat16 (2.2·10¹²), the ceiling: 2.2 ms at an H100's 990·10¹²/s
//   memory          x, the results and the codebooks once, and half the codebooks' size written (240 MB)
//   L2 cache        2·K·D·Q bytes of prepared codes for each block (17 GB); the embeddings taken, twice (0.5 GB)
//   shared memory   128 bytes for an mma of 4096 operations (69 GB)
//   floats          3 instructions a score (1.3·10¹⁰), and more for the few scores that raise a row's lower end
// These are counted. No GPU has run the kernel: what share of the ceiling it reaches is not measured.
// Of a thread's 255 registers 128 hold sums. For sm_90 nvcc 13.0 makes the loop over chunks of 200 instructions for 64
// mma, 10 of them loads of spilled registers. Shared memory for 256 dimensions: 54 KB of stages, 130 KB of residuals,
// 36 KB of lists. Global memory beyond inputs and outputs: half of the codebooks' size.
//
// A row's list has room for `capacity` codes of each of four groups. A row that outgrows it, which takes dozens of
// codes within the bound of bfloat16, is scanned by the whole block: every code in double.
#include "quantize_candidates.cuh"
#include "quantize_search.h"

namespace visgen {
namespace {

// The candidate that a code is for a row, in double; none where the code has NaN or infinity. Called by whole warps.
__device__ __forceinline__ Candidate look_at(bool wide, const QuantizeParameters& p, int64_t q, int64_t code,
                                             const SplitResidual& residual) {
  CodeTerms terms;
  double sum = 0;
  for_each_tile(p.codebooks.dimensions, [&](int64_t begin) {
    float r[kSpan], e[kSpan];
    residual.load(begin, r);
    load_embedding(wide, p.codebooks, q, code, begin, e);
    terms.add(e);
    sum += partial_score(p.metric, r, e);
  });
  if (!all_lanes(terms.finite)) return {};
  const double square = p.metric == Metric::cosine ? warp_sum(terms.square) : 0.0;
  return {score_of(p.metric, warp_sum(sum), square), code};
}

// The nearest of the codes listed for a row; none where the lists do not tell. Called by whole warps.
__device__ __forceinline__ Candidate nearest_listed(bool wide, const QuantizeParameters& p, int64_t q,
                                                    const FilterMemory& memory, int row, int64_t tiles) {
  constexpr int kLanesOfGroup = kWarpSize / kGroups;
  const int group = lane_index() / kLanesOfGroup, index = lane_index() % kLanesOfGroup;
  const uint32_t count = memory.counts[row * kGroups + group];
  if (any_lane(count == kOverflow)) return {};
  const float threshold = largest(load_vec<kGroups>(memory.lower_of(tiles - 1, row)));
  Listed listed{-INFINITY, 0};
  if (index < static_cast<int>(count)) listed = memory.lists[(row * kGroups + group) * memory.capacity + index];
  uint32_t survivors = ballot(listed.upper >= threshold);
  Candidate best;
  const bool alone = (survivors & (survivors - 1)) == 0;
  for (int lane = 0; survivors != 0; ++lane, survivors >>= 1) {
    if ((survivors & 1) == 0) continue;
    const int64_t code = shuffle(listed.code, lane);
    best = nearer(best, alone ? Candidate{0, code} : look_at(wide, p, q, code, SplitResidual(memory, row)));
  }
  return best;
}

// The nearest of all codes to one row, found by the whole block.
__device__ Candidate nearest_of_all(bool wide, const QuantizeParameters& p, int64_t q, const FilterMemory& memory,
                                    int row) {
  VISGEN_SHARED(Candidate, found, kWarpSize);
  Candidate best;
  for (int64_t code = warp_index(); code < p.codebooks.codes; code += warps_per_block()) {
    best = nearer(best, look_at(wide, p, q, code, SplitResidual(memory, row)));
  }
  if (lane_index() == 0) found[warp_index()] = best;
  sync_block();
  for (int warp = 0; warp < warps_per_block(); ++warp) best = nearer(best, found[warp]);
  sync_block();  // the next row may overwrite `found`
  return best;
}

// The rows of a warp: row_of(0), row_of(1), …, below the block's; bit i of `finite` and `poisoned` tells of row_of(i).
struct RowsOfWarp {
  uint32_t finite = 0, poisoned = 0;

  __device__ __forceinline__ RowState state(const QuantizeParameters& p, int64_t row, int i) const {
    return {active_depths_of(p, row), (finite >> i & 1) != 0, (poisoned >> i & 1) != 0};
  }
  __device__ __forceinline__ void set(int i, const RowState& state) {
    finite = (finite & ~(1u << i)) | static_cast<uint32_t>(state.finite) << i;
    poisoned = (poisoned & ~(1u << i)) | static_cast<uint32_t>(state.poisoned) << i;
  }
};

template <int row_tiles, int row_groups>
__global__ void __launch_bounds__(row_groups * kGroups * kWarpSize, 1)
    filter(QuantizeParameters p, PreparedCodes prepared, int capacity, bool wide) {
  constexpr int rows = row_groups * row_tiles * 16, warps = row_groups * kGroups;
  static_assert(rows / warps <= 32);
  const int64_t D = p.codebooks.dimensions, first = static_cast<int64_t>(blockIdx.x) * rows;
  const FilterMemory memory(rows, static_cast<int>(prepared.chunks) * kChunk, capacity);
  RowsOfWarp own;
  const auto for_each_row = [&](auto body) {  // of the warp: body(i, row of the block, row)
    for (int i = 0; i < rows / warps; ++i) {
      const int row = i * warps + warp_index();
      body(i, row, first + row);
    }
  };
  for_each_row([&](int i, int row, int64_t global) {
    bool finite = true;
    for_each_tile(memory.padded, [&](int64_t begin) {
      float x[kSpan] = {0, 0, 0, 0};
      if (global < p.rows && begin < D) load_row(wide, p.x, p.dtype, D, global, begin, x);
      for (int j = 0; j < kSpan; ++j) finite &= is_finite(x[j]);
      SplitResidual(memory, row).store(begin, x);
    });
    own.finite |= static_cast<uint32_t>(all_lanes(finite)) << i;
  });
  for (int64_t q = 0; q < p.depth; ++q) {
    Worst worst{0, 0};
    for (int64_t i = thread_in_block(); i < prepared.groups; i += blockDim.x) {
      worst = Larger()(worst, prepared.worst[prepared.book(q) * prepared.groups + i]);
    }
    worst = block_reduce(worst, Larger(), Worst{0, 0});
    sync_warp();  // for the residuals that the warp has stored
    bool searches = false;
    for_each_row([&](int i, int row, int64_t global) {
      const bool looks = global < p.rows && (own.finite >> i & 1) != 0 && q < active_depths_of(p, global);
      searches |= looks;
      const float alpha = looks ? measure_row(memory, row, worst) : NAN;
      if (lane_index() != 0) return;
      memory.alpha[row] = alpha;
      memory.scanned[row] = 0;
      for (int group = 0; group < kGroups; ++group) memory.lower_of(1, row)[group] = kNoScore;
    });
    if (block_max<int>(searches, 0) != 0) filter_codes<row_tiles, row_groups>(prepared, q, memory);
    sync_block();
    for_each_row([&](int i, int row, int64_t global) {
      if (global >= p.rows) return;
      RowState state = own.state(p, global, i);
      Candidate nearest;
      if (state.finite && q < state.active) {
        nearest = nearest_listed(wide, p, q, memory, row, prepared.tiles);
        if (nearest.code < 0) {
          if (lane_index() == 0) memory.scanned[row] = 1;
          return;
        }
      }
      take_code<float>(wide, p, global, q, nearest.code, SplitResidual(memory, row), state);
      own.set(i, state);
    });
    sync_block();
    for (int row = 0; row < rows; ++row) {
      if (!memory.scanned[row]) continue;
      const Candidate nearest = nearest_of_all(wide, p, q, memory, row);
      if (row % warps != warp_index()) continue;
      RowState state = own.state(p, first + row, row / warps);
      take_code<float>(wide, p, first + row, q, nearest.code < 0 ? 0 : nearest.code, SplitResidual(memory, row), state);
      own.set(row / warps, state);
    }
  }
  for_each_row([&](int i, int, int64_t global) {
    if (global < p.rows) write_quantized<float>(wide, p, global, own.state(p, global, i));
  });
}

// The capacity of a row's lists with that many rows in a block, or 0 where they do not fit.
int capacity_of(int rows, int64_t dimensions, size_t limit) {
  const int64_t padded = (dimensions + kChunk - 1) / kChunk * kChunk;
  for (const int capacity : {8, 4}) {
    if (FilterMemory::bytes(rows, padded, capacity) + 1024 <= limit) return capacity;  // 1024: static shared memory
  }
  return 0;
}

template <int row_tiles, int row_groups>
void run_filter(const QuantizeParameters& p, const PreparedCodes& prepared, int capacity, Stream stream) {
  constexpr int rows = row_groups * row_tiles * 16;
  const LaunchShape shape{dim3(static_cast<unsigned>((p.rows + rows - 1) / rows)),
                          dim3(row_groups * kGroups * kWarpSize),
                          FilterMemory::bytes(rows, prepared.chunks * kChunk, capacity)};
  const int64_t D = p.codebooks.dimensions;
  const bool wide = has_wide_rows(p.x, p.dtype, D) && has_wide_rows(p.quantized, p.dtype, D) &&
                    has_wide_rows(p.codebooks.data, DType::float32, D);
  launch<filter<row_tiles, row_groups>>(shape, stream, p, prepared, capacity, wide);
}

// The most rows to a block that fit shared memory and still give every multiprocessor a block.
int rows_of_block(const QuantizeParameters& p, int device) {
  const size_t limit = shared_memory_limit(device);
  int chosen = 0;
  for (const int rows : {16, 32, 64, 128}) {
    if (capacity_of(rows, p.codebooks.dimensions, limit) == 0) break;
    if (chosen == 0 || (p.rows + rows - 1) / rows >= multiprocessor_count(device)) chosen = rows;
  }
  return chosen;
}

}  // namespace

bool search_by_filter(const QuantizeParameters& p, const Tensor& like) {
  constexpr int64_t kMostBooks = 65535;  // of gridDim.y
  if (p.in_double || p.depth == 0 || p.codebooks.dimensions == 0 || p.depth > kMostBooks) return false;
  const int32_t device = like.get_device_index();
  const OnDevice on(device);
  const int rows = rows_of_block(p, device);
  if (rows == 0) return false;
  PreparedCodes prepared;
  const auto scratch = prepare_codes(p, like, prepared);
  const int capacity = capacity_of(rows, p.codebooks.dimensions, shared_memory_limit(device));
  switch (rows) {
    case 128:
      run_filter<4, 2>(p, prepared, capacity, on.stream);
      break;
    case 64:
      run_filter<4, 1>(p, prepared, capacity, on.stream);
      break;
    case 32:
      run_filter<2, 1>(p, prepared, capacity, on.stream);
      break;
    default:
      run_filter<1, 1>(p, prepared, capacity, on.stream);
  }
  return true;
}

}  // namespace visgen
