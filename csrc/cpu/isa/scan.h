// The filtered search of one depth: a tile of rows after the other.
//
// A tile's rows are rounded, multiplied with all codes, and what is kept, without a branch, is the largest sum of each
// lane (of `group` neighbouring codes), and of that lane over a range of blocks: its summit. Then, row by row: the
// codes of the lane with the largest sum of all are scored in double, the bound (bound.h) says how large the sum of a
// nearer code would be, and where a summit reaches it every lane that does is scored in double.
#pragma once

#include "bound.h"

namespace visgen::VISGEN_ISA {

// Everything a tile needs besides its rows.
template <class F, class Real>
struct TileBuffers {
  explicit TileBuffers(const FilteredSearch& filtered)
      : steps(filtered.packed.steps),
        lanes(filtered.packed.blocks * kLanes),
        blocks_of_summit(range_of_summit(filtered.packed.blocks)),
        summit_lanes((filtered.packed.blocks + blocks_of_summit - 1) / blocks_of_summit * kLanes),
        rows(sizeof(Real) * filtered.rows_of_tile * filtered.packed.search->call->codebooks.dimensions),
        words(sizeof(uint32_t) * filtered.rows_of_tile * steps),
        row_words(sizeof(uint32_t) * (steps + 2 * kLanes)),
        maxima(sizeof(uint32_t) * filtered.rows_of_tile * lanes),
        summits(sizeof(uint32_t) * filtered.rows_of_tile * summit_lanes),
        starts(sizeof(uint32_t) * lanes * filtered.packed.group),
        numbers(sizeof(int64_t) * filtered.rows_of_tile),
        pointers(sizeof(Real*) * filtered.rows_of_tile),
        rounded(sizeof(RoundedRow) * filtered.rows_of_tile) {}

  // About the root of the number of blocks, so that looking through summits, then through a range, is quick.
  static int64_t range_of_summit(int64_t blocks) {
    int64_t range = 1;
    while (2 * range * range < blocks) range *= 2;
    return range;
  }

  int64_t steps, lanes, blocks_of_summit, summit_lanes;  // lanes: of all blocks together
  Scratch rows, words, row_words, maxima, summits, starts, numbers, pointers, rounded;
};

template <class F, Metric metric, class Real>
class Tile {
 public:
  Tile(FilteredSearch& filtered, const TileBuffers<F, Real>& buffers)
      : filtered_(filtered),
        packed_(filtered.packed),
        search_(*packed_.search),
        call_(*search_.call),
        dimensions_(call_.codebooks.dimensions),
        buffers_(buffers),
        numbers_(buffers.numbers.template as<int64_t>()),
        pointers_(buffers.pointers.template as<const Real*>()),
        rounded_(buffers.rounded.template as<RoundedRow>()) {}

  void run(int64_t tile) {
    const int64_t begin = tile * filtered_.rows_of_tile, limit = begin + filtered_.rows_of_tile;
    collect(begin, limit < call_.rows ? limit : call_.rows);
    if (count_ == 0) return;
    round_rows();
    scan();
    const Bound<metric> bound(packed_, row_step_);
    int64_t candidates = 0;
    for (int64_t i = 0; i < count_; ++i) {
      Nearest nearest;
      candidates += choose(i, bound, nearest);
      finish_row(search_, numbers_[i], pointers_[i], nearest.code < 0 ? 0 : nearest.code, true);
    }
    __atomic_fetch_add(&filtered_.rows, count_, __ATOMIC_RELAXED);
    __atomic_fetch_add(&filtered_.candidates, candidates, __ATOMIC_RELAXED);
  }

 private:
  // The active rows; those with NaN or infinity, and those that the filter cannot take, are done with here.
  void collect(int64_t begin, int64_t end) {
    count_ = 0;
    largest_ = 0;
    for (int64_t row = begin; row < end; ++row) {
      if (!active(call_, row, search_.depth)) {
        skip_row<Real>(search_, row);
        continue;
      }
      const Real* r = residual(search_, row, buffers_.rows.template as<Real>() + count_ * dimensions_);
      const double largest = magnitude(r, dimensions_);
      if (largest == HUGE_VAL) {
        finish_row(search_, row, r, 0, false);
        continue;
      }
      if (!fits(largest)) {
        Nearest nearest;
        consider_codes<metric>(nearest, r, codebook(), 0, call_.codebooks.codes, dimensions_);
        finish_row(search_, row, r, nearest.code < 0 ? 0 : nearest.code, true);
        continue;
      }
      if (largest > largest_) largest_ = largest;
      numbers_[count_] = row;
      pointers_[count_++] = r;
    }
  }

  bool fits(double largest) const {
    if constexpr (F::kFilter == Filter::float32) {
      return Bound<metric>::float_fits(packed_, largest * __builtin_sqrt(static_cast<double>(dimensions_)));
    } else {
      return sizeof(Real) == 4 || largest == 0 || (largest > 0x1p-100 && largest < 0x1p+100);
    }
  }

  // One step for all rows of the tile, no smaller than what keeps ½‖q_c‖²·(codebook's step / step) within 2^29.
  void round_rows() {
    constexpr int kRows = kAccumulators;  // of all groups a multiple
    const int64_t rows_together = kRows / packed_.group, padded = (count_ + kRows - 1) / kRows * kRows;
    uint32_t *words = buffers_.words.template as<uint32_t>(), *one = buffers_.row_words.template as<uint32_t>();
    Real inverse = 1;
    if constexpr (F::kFilter != Filter::float32) {
      constexpr bool kSquares = metric == Metric::l2;
      const double most = kSquares ? 0x1p+29 / (packed_.step * (packed_.deviation.half_square + 1)) : HUGE_VAL;
      double wanted = largest_integer(F::kFilter, dimensions_) / largest_;
      wanted = wanted < most ? wanted : most;
      inverse = static_cast<Real>(wanted < kLargestInverse ? wanted : kLargestInverse);
      row_step_ = 1 / static_cast<double>(inverse);
    }
    make_starts();
    for (int64_t i = 0; i < padded; ++i) {
      if (i < count_) {
        round_one(i, inverse, one);
      } else {
        memset(one, 0, sizeof(uint32_t) * buffers_.steps);
      }
      uint32_t* out = words + i / rows_together * rows_together * buffers_.steps + i % rows_together;
      for (int64_t step = 0; step < buffers_.steps; ++step) out[step * rows_together] = one[step];
    }
  }

  void round_one(int64_t i, Real inverse, uint32_t* words) {
    if constexpr (F::kFilter == Filter::float32) {
      for (int64_t d = 0; d < dimensions_; ++d)
        reinterpret_cast<float*>(words)[d] = static_cast<float>(pointers_[i][d]);
      rounded_[i] = {square_of(i), 0, 0};
    } else {
      const Rounding rounding =
          round_row<F>(pointers_[i], dimensions_, inverse, reinterpret_cast<typename F::Element*>(words), 0);
      rounded_[i] = {row_step_ * row_step_ * rounding.squares, row_step_ * error_(rounding), F::kOffset * rounding.sum};
    }
  }

  double square_of(int64_t i) const { return -score<Metric::dot>(pointers_[i], pointers_[i], dimensions_); }

  // −½‖ĉ‖² in units of sums.
  void make_starts() {
    const float ratio = metric == Metric::l2 ? static_cast<float>(packed_.step / row_step_) : 1.0f;
    for (int64_t i = 0; i < buffers_.lanes * packed_.group; i += kLanes) {
      FloatVector value;
      memcpy(&value, packed_.half_squares + i, sizeof(value));
      typename F::Vector start;
      if constexpr (F::kFilter == Filter::float32) {
        start = -value;
      } else {
        constexpr float kNone = static_cast<float>(kNoCode);
        value = value * ratio + 0.5f;
        start = -__builtin_convertvector(value < kNone ? value : FloatVector{} + kNone, IntVector);
      }
      memcpy(buffers_.starts.template as<typename F::Sum>() + i, &start, sizeof(start));
    }
  }

  void scan() {
    switch (packed_.group) {
      case 2:
        return scan<2>();
      case 4:
        return scan<4>();
      case 8:
        if constexpr (kAccumulators == 24) return scan<8>();
    }
  }

  // Blocks outermost: a block stays in the first-level cache for all rows of the tile. Not inlined: the loop needs
  // every register.
  template <int V>
  __attribute__((noinline)) void scan() {
    using Vector = typename F::Vector;
    using Sum = typename F::Sum;
    constexpr int R = kAccumulators / V;
    const Vector *codes = static_cast<const Vector*>(packed_.words), *starts = buffers_.starts.template as<Vector>();
    reset_summits();
    for (int64_t block = 0; block < packed_.blocks; ++block, codes += buffers_.steps * V, starts += V) {
      const Sum* rows = buffers_.words.template as<Sum>();
      Sum* maxima = buffers_.maxima.template as<Sum>() + block * kLanes;
      Sum* summits = buffers_.summits.template as<Sum>() + block / buffers_.blocks_of_summit * kLanes;
      for (int64_t i = 0; i < count_; i += R) {
        scan_block<F, V>(codes, rows, buffers_.steps, starts, maxima, buffers_.lanes, summits, buffers_.summit_lanes);
        rows += R * buffers_.steps;
        maxima += R * buffers_.lanes;
        summits += R * buffers_.summit_lanes;
      }
    }
  }

  void reset_summits() {
    using Sum = typename F::Sum;
    constexpr Sum kLowest = F::kFilter == Filter::float32 ? static_cast<Sum>(-HUGE_VALF) : static_cast<Sum>(-0x1p+31);
    Sum* summits = buffers_.summits.template as<Sum>();
    for (int64_t i = 0; i < filtered_.rows_of_tile * buffers_.summit_lanes; ++i) summits[i] = kLowest;
  }

  // Returns how many codes were scored.
  int64_t choose(int64_t i, const Bound<metric>& bound, Nearest& nearest) const {
    using Sum = typename F::Sum;
    const Sum* maxima = buffers_.maxima.template as<Sum>() + i * buffers_.lanes;
    const Sum* summits = buffers_.summits.template as<Sum>() + i * buffers_.summit_lanes;
    const int64_t first = highest(maxima, summits);
    score_lane(i, first, nearest);
    if (nearest.code < 0) return 0;
    Sum least;
    if constexpr (F::kFilter == Filter::float32) {
      least = bound.least_float(rounded_[i], nearest.score);
    } else {
      least = bound.least_integer(rounded_[i], nearest.score, [&] { return square_of(i); });
    }
    int64_t lanes = 1;
    for (int64_t summit = 0; summit < buffers_.summit_lanes; summit += kLanes) {
      for (uint32_t hits = lanes_at_least(vector_at(summits + summit), least); hits != 0; hits &= hits - 1) {
        const int64_t begin = summit * buffers_.blocks_of_summit + __builtin_ctz(hits);
        for (int64_t lane = begin; lane < end_of_summit(summit); lane += kLanes) {
          if (maxima[lane] < least || lane == first) continue;
          score_lane(i, lane, nearest);
          ++lanes;
        }
      }
    }
    return lanes * packed_.group;
  }

  // A lane with the largest sum of all.
  int64_t highest(const typename F::Sum* maxima, const typename F::Sum* summits) const {
    typename F::Vector largest = vector_at(summits);
    IntVector where = {};
    for (int64_t summit = kLanes; summit < buffers_.summit_lanes; summit += kLanes) {
      const typename F::Vector other = vector_at(summits + summit);
      where = other > largest ? IntVector{} + static_cast<int32_t>(summit) : where;
      largest = larger(other, largest);
    }
    const typename F::Sum most = largest_lane(largest);
    int32_t summit_of_lane[kLanes];
    memcpy(summit_of_lane, &where, sizeof(where));
    const int lane = __builtin_ctz(lanes_at_least(largest, most));
    int64_t result = summit_of_lane[lane] * buffers_.blocks_of_summit + lane;
    while (maxima[result] != most) result += kLanes;
    return result;
  }

  static VISGEN_HOST_DEVICE typename F::Vector vector_at(const typename F::Sum* in) {
    typename F::Vector value;
    memcpy(&value, in, sizeof(value));
    return value;
  }

  int64_t end_of_summit(int64_t summit) const {
    const int64_t end = (summit + kLanes) * buffers_.blocks_of_summit;
    return end < buffers_.lanes ? end : buffers_.lanes;
  }

  void score_lane(int64_t i, int64_t lane, Nearest& nearest) const {
    const int64_t begin = lane * packed_.group, limit = begin + packed_.group;
    const int64_t end = limit < call_.codebooks.codes ? limit : call_.codebooks.codes;
    for (int64_t k = begin; k < end; ++k) {
      const double other = score<metric>(pointers_[i], codebook() + k * dimensions_, dimensions_);
      if (nearest.better(other, k) && packed_.scales[k] >= 0) nearest.score = other, nearest.code = k;
    }
  }

  const Real* codebook() const { return static_cast<const Real*>(search_.codebook); }

  FilteredSearch& filtered_;
  const PackedCodebook& packed_;
  const Search& search_;
  const QuantizeParameters& call_;
  const int64_t dimensions_;
  const TileBuffers<F, Real>& buffers_;
  int64_t* numbers_;
  const Real** pointers_;
  RoundedRow* rounded_;
  const RoundingError<F> error_{dimensions_};
  int64_t count_ = 0;
  double largest_ = 0, row_step_ = 1;
};

// Whether the codes scored in double cost more than a filter of twice the precision would.
inline bool gives_up(const FilteredSearch& filtered) {
  const Codebooks& codebooks = filtered.packed.search->call->codebooks;
  const double rows = static_cast<double>(__atomic_load_n(&filtered.rows, __ATOMIC_RELAXED));
  const double candidates = static_cast<double>(__atomic_load_n(&filtered.candidates, __ATOMIC_RELAXED));
  const double cost = 12 + 480 / static_cast<double>(codebooks.dimensions);
  const double precision = filtered.packed.filter == Filter::int8 ? 2 : 1;
  return candidates * cost * precision > rows * static_cast<double>(codebooks.codes);
}

template <class F, Metric metric, class Real>
void search_tiles(FilteredSearch& filtered, int64_t first, int64_t last) {
  const TileBuffers<F, Real> buffers(filtered);
  Tile<F, metric, Real> tile(filtered, buffers);
  for (int64_t index = first; index < last; ++index) {
    if (filtered.done[index]) continue;
    if (filtered.may_give_up && (__atomic_load_n(&filtered.gave_up, __ATOMIC_RELAXED) || gives_up(filtered))) {
      return __atomic_store_n(&filtered.gave_up, true, __ATOMIC_RELAXED);
    }
    tile.run(index);
    filtered.done[index] = 1;
  }
}

template <class F, class Real>
void search_tiles(FilteredSearch& filtered, int64_t first, int64_t last) {
  switch (filtered.packed.search->call->metric) {
    case Metric::l2:
      return search_tiles<F, Metric::l2, Real>(filtered, first, last);
    case Metric::cosine:
      return search_tiles<F, Metric::cosine, Real>(filtered, first, last);
    case Metric::dot:
      return search_tiles<F, Metric::dot, Real>(filtered, first, last);
  }
}

}  // namespace visgen::VISGEN_ISA
