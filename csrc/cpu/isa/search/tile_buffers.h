// The memory that a thread works on tiles in.
#pragma once

#include "bound.h"

namespace visgen::VISGEN_ISA {

template <class Sum>
constexpr Sum kLowest = static_cast<Sum>(-0x1p+31);
template <>
constexpr float kLowest<float> = -HUGE_VALF;
template <class Sum>
constexpr Sum kHighest = -1 - kLowest<Sum>;
template <>
constexpr float kHighest<float> = HUGE_VALF;

// The code of a row with the least score in float so far, and the next score.
struct Leader {
  float score = HUGE_VALF, second = HUGE_VALF;
  int64_t code = -1;

  // Without a branch, which would often be mispredicted.
  VISGEN_HOST_DEVICE void consider(float other, int64_t index) {
    const float loser = other > score ? other : score;
    second = loser < second ? loser : second;
    code ^= (code ^ index) & -static_cast<int64_t>(other < score);
    score = other < score ? other : score;
  }
};

constexpr int64_t kFewLanes = 512;  // at most so many are all looked at, since branches on summits would cost more

// A lane of a row whose codes are still to be scored.
struct Survivor {
  int32_t row, lane;
};

// Survivors that are listed before they are scored; with them, all those of one row, and one that is overwritten.
constexpr int64_t kSurvivors = 1024;

// Everything a tile needs besides its rows.
template <class F, class Real>
struct TileBuffers {
  explicit TileBuffers(const FilteredSearch& filtered)
      : steps(filtered.packed.steps),
        lanes(filtered.packed.blocks * kLanes),
        has_summits(lanes > kFewLanes),
        blocks_of_summit(range_of_summit(filtered.packed.blocks)),
        summit_lanes((filtered.packed.blocks + blocks_of_summit - 1) / blocks_of_summit * kLanes),
        stride(spread(lanes)),
        summit_stride(spread(summit_lanes)),
        rows(sizeof(Real) * filtered.rows_of_tile * filtered.packed.search->call->codebooks.dimensions),
        words(sizeof(uint32_t) * filtered.rows_of_tile * steps),
        row_words(sizeof(uint32_t) * (steps + 2 * kLanes)),
        maxima(sizeof(uint32_t) * filtered.rows_of_tile * stride),
        summits(has_summits ? sizeof(uint32_t) * filtered.rows_of_tile * summit_stride : 0),
        starts(sizeof(uint32_t) * lanes * filtered.packed.group),
        numbers(sizeof(int64_t) * filtered.rows_of_tile),
        pointers(sizeof(Real*) * filtered.rows_of_tile),
        rounded(sizeof(RoundedRow) * filtered.rows_of_tile),
        first_lanes(sizeof(int32_t) * filtered.rows_of_tile),
        leaders(sizeof(Leader) * filtered.rows_of_tile),
        least(sizeof(uint32_t) * filtered.rows_of_tile),
        survivors(sizeof(Survivor) * (kSurvivors + lanes + 1)) {}

  // About the root of the number of blocks, so that looking through summits, then through a range, is quick.
  static int64_t range_of_summit(int64_t blocks) {
    int64_t range = 1;
    while (2 * range * range < blocks) range *= 2;
    return range;
  }

  // An odd number of cache lines for the sums of a row: a block writes to all rows, which were they a power of 2 apart
  // would all fall into a few sets of the first-level cache.
  static int64_t spread(int64_t lanes) { return ((lanes + 15) / 16 | 1) * 16; }

  int64_t steps, lanes;  // lanes: of all blocks together
  bool has_summits;
  int64_t blocks_of_summit, summit_lanes, stride, summit_stride;
  Scratch rows, words, row_words, maxima, summits, starts, numbers, pointers, rounded, first_lanes, leaders, least,
      survivors;
};

}  // namespace visgen::VISGEN_ISA
