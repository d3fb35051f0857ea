// Which codes may be the nearest to the rows of a block: the tensor cores' scores of all codes, a tile of them after
// the other, and a list for each row. What that costs is counted in quantize_filter.cu.
#pragma once

#include "mma.cuh"
#include "quantize_filter.cuh"

namespace visgen {

constexpr int kNarrow = 8;          // 8-column fragments of a warp's codes
constexpr uint32_t kOverflow = 15;  // instead of a list's count, in 4 bits
static_assert(kGroupCodes == kNarrow * 8);
static_assert(kWideBytes / sizeof(CodeTerm) * kGroups * kWarpSize >= kTileCodes);  // each thread copies one at most

// Starts copying one chunk of one tile to a stage.
template <int threads>
__device__ __forceinline__ void copy_stage(const PreparedCodes& prepared, int64_t tile, int64_t chunk, Stage& stage) {
  constexpr int kElements = kTileCodes * kChunk, kTerms = kWideBytes / sizeof(CodeTerm);
  const int first = thread_in_block() * kPiece, first_term = thread_in_block() * kTerms;
  const uint16_t* from = prepared.codes + (tile * prepared.chunks + chunk) * kElements + first;
#pragma unroll
  for (int i = 0; i < kElements; i += threads * kPiece) copy_async(stage.codes + first + i, from + i);
  if (chunk + 1 == prepared.chunks && first_term < kTileCodes) {
    copy_async(stage.terms + first_term, prepared.terms + tile * kTileCodes + first_term);
  }
}

// Adds the products of a chunk: of the warp's rows, from `high` on, with the codes of its group.
template <int row_tiles>
__device__ __forceinline__ void multiply_chunk(float (&sums)[row_tiles][kNarrow][4], const uint16_t* high, int stride,
                                               const Stage& stage, int group) {
  const int lane = lane_index();
  const uint16_t* row = high + lane % 16 * stride + lane / 16 * kPiece;
  const int code = group * kGroupCodes + lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int k = 0; k < kChunk; k += 16) {
    uint32_t a[row_tiles][4];
#pragma unroll
    for (int m = 0; m < row_tiles; ++m) load_matrices(a[m], row + m * 16 * stride + k);
#pragma unroll
    for (int n = 0; n < kNarrow; n += 2) {
      uint32_t b[4];
      load_matrices(b, stage.codes + place_in_chunk(code + n * 8, k + lane / 8 % 2 * kPiece));
      const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < row_tiles; ++m) {
        multiply_bf16(sums[m][n], a[m], left);
        multiply_bf16(sums[m][n + 1], a[m], right);
      }
    }
  }
}

__device__ __forceinline__ float largest(const Vec<float, kGroups>& values) {
  return fmaxf(fmaxf(values[0], values[1]), fmaxf(values[2], values[3]));
}

// Appends the codes of one row in one tile that may be the nearest: those of the quad's 4 lanes with an upper end of at
// least `threshold`. upper_of(column) is this lane's column 0 … 15. Called by whole warps; quads with nothing to append
// change nothing.
template <class UpperOf>
__device__ __forceinline__ uint32_t append(Listed* list, int capacity, uint32_t count, float threshold, int first_code,
                                           UpperOf upper_of) {
  const int lane = lane_index(), quad = lane & ~3;
  int mine = 0, before = 0, total = 0;
#pragma unroll
  for (int column = 0; column < 2 * kNarrow; ++column) mine += upper_of(column) >= threshold;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int other = shuffle(mine, quad + i);
    before += quad + i < lane ? other : 0;
    total += other;
  }
  const bool full = count != kOverflow && static_cast<int>(count) + total > capacity;
  if (any_lane(full)) {  // what was listed under lower thresholds makes room
    sync_warp();
    if (full && lane == quad) {
      uint32_t kept = 0;
      for (uint32_t i = 0; i < count; ++i) {
        if (list[i].upper >= threshold) list[kept++] = list[i];
      }
      count = kept;
    }
    sync_warp();
    count = shuffle(count, quad);
  }
  if (static_cast<int>(count) + total > capacity) return kOverflow;
#pragma unroll
  for (int column = 0; column < 2 * kNarrow; ++column) {
    const float upper = upper_of(column);
    if (upper >= threshold) list[count + before++] = {upper, first_code + column / 2 * 8 + column % 2};
  }
  return count + total;
}

// Turns a tile's sums into upper ends, raises the rows' lower ends, and lists the codes that may be the nearest.
template <int row_tiles>
__device__ __forceinline__ void keep_candidates(float (&sums)[row_tiles][kNarrow][4], const FilterMemory& memory,
                                                const Stage& stage, int first_row, int group, int64_t tile,
                                                uint32_t& counts) {
  constexpr int slots = 2 * row_tiles;  // rows of a lane: first_row + 8·slot
  const int column = group * kGroupCodes + lane_index() % 4 * 2;
  first_row += lane_index() / 4;
  float alpha[slots], highest[slots];
#pragma unroll
  for (int slot = 0; slot < slots; ++slot) {
    alpha[slot] = memory.alpha[first_row + 8 * slot];
    highest[slot] = -INFINITY;
  }
#pragma unroll
  for (int n = 0; n < kNarrow; ++n) {
    const auto terms = load_vec<4>(&stage.terms[column + n * 8].half_square);  // of two codes
#pragma unroll
    for (int slot = 0; slot < slots; ++slot) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& sum = sums[slot / 2][n][slot % 2 * 2 + j];
        sum = fmaf(alpha[slot], terms[2 * j + 1], sum - terms[2 * j]);
        highest[slot] = fmaxf(highest[slot], sum);
      }
    }
  }
#pragma unroll
  for (int slot = 0; slot < slots; ++slot) {
    const int row = first_row + 8 * slot;
    const auto before = load_vec<kGroups>(memory.lower_of(tile + 1, row));
    float threshold = largest(before), own = memory.lower_of(tile + 1, row)[group];
    if (any_lane(highest[slot] >= threshold)) {
      const auto upper_of = [&](int i) { return sums[slot / 2][i / 2][slot % 2 * 2 + i % 2]; };
      float best = kNoScore;
#pragma unroll
      for (int i = 0; i < 2 * kNarrow; ++i) {
        const float lower = fmaf(-2 * alpha[slot], stage.terms[column + i / 2 * 8 + i % 2].norm, upper_of(i));
        best = fmaxf(best, lower);
      }
      best = warp_max<4>(best);
      own = fmaxf(own, best);
      threshold = fmaxf(threshold, own);
      const uint32_t count =
          append(memory.lists + (row * kGroups + group) * memory.capacity, memory.capacity, counts >> 4 * slot & 15u,
                 threshold, static_cast<int>(tile) * kTileCodes + column, upper_of);
      counts = (counts & ~(15u << 4 * slot)) | count << 4 * slot;
    }
    if (lane_index() % 4 == 0) memory.lower_of(tile, row)[group] = own;
  }
}

// Lists, for every row of the block, the codes of a depth that may be the nearest.
template <int row_tiles, int row_groups>
__device__ __forceinline__ void filter_codes(const PreparedCodes& prepared, int64_t depth, const FilterMemory& memory) {
  const int group = warp_index() % kGroups, first_row = warp_index() / kGroups * row_tiles * 16;
  const int64_t first_tile = prepared.book(depth) * prepared.tiles;
  const int tiles = static_cast<int>(prepared.tiles), chunks = static_cast<int>(prepared.chunks);
  int copied = 0, copied_tile = 0, copied_chunk = 0;
  const auto copy_next = [&] {
    if (copied_tile < tiles) {
      copy_stage<row_groups * kGroups * kWarpSize>(prepared, first_tile + copied_tile, copied_chunk,
                                                   memory.stages[copied % kStages]);
      if (++copied_chunk == chunks) copied_chunk = 0, ++copied_tile;
    }
    ++copied;
    commit_copies();  // an empty group at the end, so that the count below holds
  };
  for (int i = 0; i < kStages - 1; ++i) copy_next();
  uint32_t counts = 0;
  float sums[row_tiles][kNarrow][4] = {};
  int step = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    for (int chunk = 0; chunk < chunks; ++chunk, ++step) {
      wait_copies<kStages - 2>();
      sync_block();  // the stage is there, and the one before may be overwritten
      copy_next();
      multiply_chunk(sums, memory.high + first_row * memory.high_stride + chunk * kChunk, memory.high_stride,
                     memory.stages[step % kStages], group);
    }
    keep_candidates(sums, memory, memory.stages[(step - 1) % kStages], first_row, group, tile, counts);
#pragma unroll
    for (int m = 0; m < row_tiles; ++m) {
#pragma unroll
      for (int n = 0; n < kNarrow; ++n) sums[m][n][0] = sums[m][n][1] = sums[m][n][2] = sums[m][n][3] = 0.0f;
    }
  }
  if (lane_index() % 4 == 0) {
    for (int slot = 0; slot < 2 * row_tiles; ++slot) {
      const int row = first_row + lane_index() / 4 + 8 * slot;
      memory.counts[row * kGroups + group] = static_cast<uint8_t>(counts >> 4 * slot & 15u);
    }
  }
}

}  // namespace visgen
