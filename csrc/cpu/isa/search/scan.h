// The filtered search of one depth: a tile of rows after the other.
//
// A tile's rows are rounded, multiplied with all codes, and what is kept, without a branch, is the largest sum of each
// lane (of `group` neighbouring codes), and where lanes are many that of a lane over a range of blocks: its summit.
// From them the rows' codes are chosen (choose.h).
#pragma once

#include "choose.h"

namespace visgen::VISGEN_ISA {

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
    const bool in_float = Bound<metric>::float_tells(packed_, largest_);
    Chooser<F, metric, Real> chooser(packed_, buffers_, Bound<metric>(packed_, row_step_), in_float);
    const int64_t candidates = chooser.run(count_);
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
      return Bound<metric>::float_fits(packed_, largest);
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
        return scan_groups<2>();
      case 4:
        return scan_groups<4>();
      case 8:
        if constexpr (kAccumulators == 24) return scan_groups<8>();
    }
  }

  template <int V>
  void scan_groups() {
    buffers_.has_summits ? scan<V, true>() : scan<V, false>();
  }

  // Blocks outermost: a block stays in the first-level cache for all rows of the tile. Not inlined: the loop needs
  // every register.
  template <int V, bool summits_too>
  __attribute__((noinline)) void scan() {
    using Vector = typename F::Vector;
    using Sum = typename F::Sum;
    constexpr int R = kAccumulators / V;
    const Vector *codes = static_cast<const Vector*>(packed_.words), *starts = buffers_.starts.template as<Vector>();
    if constexpr (summits_too) reset_summits();
    for (int64_t block = 0; block < packed_.blocks; ++block, codes += buffers_.steps * V, starts += V) {
      const Sum* rows = buffers_.words.template as<Sum>();
      Sum* maxima = buffers_.maxima.template as<Sum>() + block * kLanes;
      Sum* summits = buffers_.summits.template as<Sum>() + block / buffers_.blocks_of_summit * kLanes;
      for (int64_t i = 0; i < count_; i += R) {
        scan_block<F, V, summits_too>(codes, rows, buffers_.steps, starts, maxima, buffers_.stride, summits,
                                      buffers_.summit_stride);
        rows += R * buffers_.steps;
        maxima += R * buffers_.stride;
        summits += R * buffers_.summit_stride;
      }
    }
  }

  void reset_summits() {
    using Sum = typename F::Sum;
    Sum* summits = buffers_.summits.template as<Sum>();
    for (int64_t i = 0; i < filtered_.rows_of_tile * buffers_.summit_stride; ++i) summits[i] = kLowest<Sum>;
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

// Whether the codes scored one by one cost more than a filter of twice the precision would.
inline bool gives_up(const FilteredSearch& filtered) {
  const Codebooks& codebooks = filtered.packed.search->call->codebooks;
  const double rows = static_cast<double>(__atomic_load_n(&filtered.rows, __ATOMIC_RELAXED));
  const double candidates = static_cast<double>(__atomic_load_n(&filtered.candidates, __ATOMIC_RELAXED));
  const double cost = 12 + 480 / static_cast<double>(codebooks.dimensions);
  const double precision = filtered.packed.filter == Filter::int8 ? 2 : 1;
  return candidates * cost * precision > rows * static_cast<double>(codebooks.codes);
}

// Tiles [first, last), most of whose rows this thread had at the depth before; then, from their ends, what is left of
// others'.
template <class F, Metric metric, class Real>
void search_tiles(FilteredSearch& filtered, int64_t first, int64_t last) {
  const TileBuffers<F, Real> buffers(filtered);
  Tile<F, metric, Real> tile(filtered, buffers);
  for (int64_t i = 0; i < filtered.tiles; ++i) {
    const int64_t index = first + i < last ? first + i : (last - 1 - i + filtered.tiles) % filtered.tiles;
    if (__atomic_load_n(&filtered.taken[index], __ATOMIC_RELAXED)) continue;
    if (filtered.may_give_up && (__atomic_load_n(&filtered.gave_up, __ATOMIC_RELAXED) || gives_up(filtered))) {
      return __atomic_store_n(&filtered.gave_up, true, __ATOMIC_RELAXED);
    }
    if (!__atomic_exchange_n(&filtered.taken[index], 1, __ATOMIC_RELAXED)) tile.run(index);
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
