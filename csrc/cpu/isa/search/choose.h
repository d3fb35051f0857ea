// From largest sums to nearest codes: the last part of a tile.
//
// Of every row the lane with the largest sum of all is scored first. The bound (bound.h) says how large the sum of a
// nearer code would be; where a summit reaches it, the lanes of its range that do survive, and are scored too. All rows
// take a step before any takes the next, so that they do not wait for each other's memory and mispredicted branches.
//
// Scores are found in float, which tells a row's two nearest codes apart unless they are nearly as near. Where it does
// not, where scores are too large or too small for it, for the cosine and for float64, codes are scored in double.
#pragma once

#include "tile_buffers.h"

namespace visgen::VISGEN_ISA {

// The scores (rows.h) of two codes in float.
template <Metric metric>
VISGEN_HOST_DEVICE TwoFloats float_scores(const float* r, const float* first, const float* second, int64_t count) {
  FloatVector sum[4] = {};
  const auto add = [&](FloatVector row, FloatVector code, int j) __attribute__((always_inline)) {
    if (metric == Metric::l2) row = code = row - code;
    Float32::add(sum[j], row, code);
  };
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const FloatVector row = load_floats(r + i), next = load_floats(r + i + kLanes);
    add(row, load_floats(first + i), 0);
    add(row, load_floats(second + i), 1);
    add(next, load_floats(first + i + kLanes), 2);
    add(next, load_floats(second + i + kLanes), 3);
  }
  for (; i < count; i += kLanes) {
    const FloatVector row = some_floats(r + i, count - i);
    add(row, some_floats(first + i, count - i), 0);
    add(row, some_floats(second + i, count - i), 1);
  }
  const TwoFloats sums = sums_of(sum[0] + sum[2], sum[1] + sum[3]);
  if (metric == Metric::l2) return sums;
  return {-sums.first, -sums.second};
}

template <class F, Metric metric, class Real>
class Chooser {
 public:
  Chooser(const PackedCodebook& packed, const TileBuffers<F, Real>& buffers, const Bound<metric>& bound, bool in_float)
      : packed_(packed),
        search_(*packed.search),
        codes_(search_.call->codebooks.codes),
        dimensions_(search_.call->codebooks.dimensions),
        buffers_(buffers),
        bound_(bound),
        in_float_(kFloat && in_float),
        rows_(buffers.pointers.template as<const Real*>()),
        rounded_(buffers.rounded.template as<RoundedRow>()),
        numbers_(buffers.numbers.template as<int64_t>()),
        first_lanes_(buffers.first_lanes.template as<int32_t>()),
        leaders_(buffers.leaders.template as<Leader>()),
        least_(buffers.least.template as<Sum>()),
        survivors_(buffers.survivors.template as<Survivor>()) {}

  // Finishes rows [0, count) of the tile; returns how many codes were scored.
  int64_t run(int64_t count) {
    for (int64_t i = 0; i < count; ++i) take_highest(i);
    int64_t lanes = count;
    if constexpr (kFloat) {
      if (in_float_) return (lanes + choose_in_float(count)) * packed_.group;
    }
    for (int64_t i = 0; i < count; ++i) lanes += choose_in_double(i);
    return lanes * packed_.group;
  }

 private:
  static constexpr bool kFloat = sizeof(Real) == 4 && metric != Metric::cosine;
  static constexpr int64_t kWord = 64;  // lanes that are looked at together
  using Sum = typename F::Sum;
  using Vector = typename F::Vector;

  Sum* maxima(int64_t i) const { return buffers_.maxima.template as<Sum>() + i * buffers_.stride; }
  const Sum* summits(int64_t i) const { return buffers_.summits.template as<Sum>() + i * buffers_.summit_stride; }
  const Real* code(int64_t k) const { return static_cast<const Real*>(search_.codebook) + k * dimensions_; }

  static VISGEN_HOST_DEVICE Vector vector_at(const Sum* in) {
    Vector value;
    memcpy(&value, in, sizeof(value));
    return value;
  }

  int64_t end_of_summit(int64_t summit) const {
    const int64_t end = (summit + kLanes) * buffers_.blocks_of_summit;
    return end < buffers_.lanes ? end : buffers_.lanes;
  }

  // A lane with the largest sum of all is the row's first, and is not found again.
  void take_highest(int64_t i) {
    const int64_t lane = buffers_.has_summits ? highest_by_summits(i) : highest_of_few(i);
    first_lanes_[i] = static_cast<int32_t>(lane);
    maxima(i)[lane] = kLowest<Sum>;
  }

  int64_t highest_of_few(int64_t i) const {
    const Sum* maxima = this->maxima(i);
    Vector largest = vector_at(maxima);
    for (int64_t at = kLanes; at < buffers_.lanes; at += kLanes) largest = larger(vector_at(maxima + at), largest);
    const Sum most = largest_lane(largest);
    int64_t result = 0;
    for (int64_t at = 0; at < buffers_.lanes; at += kWord) {
      const uint64_t hits = hits_from(maxima + at, buffers_.lanes - at, most);
      // Without a branch, which would be mispredicted: the largest may be anywhere.
      result ^= (result ^ (at + first_of(hits))) & -static_cast<int64_t>(hits != 0);
    }
    return result;
  }

  int64_t highest_by_summits(int64_t i) const {
    const Sum *maxima = this->maxima(i), *summits = this->summits(i);
    Vector largest = vector_at(summits);
    IntVector where = {};
    for (int64_t summit = kLanes; summit < buffers_.summit_lanes; summit += kLanes) {
      const Vector other = vector_at(summits + summit);
      where = other > largest ? IntVector{} + static_cast<int32_t>(summit) : where;
      largest = larger(other, largest);
    }
    const Sum most = largest_lane(largest);
    int32_t summit_of_lane[kLanes];
    memcpy(summit_of_lane, &where, sizeof(where));
    const int lane = __builtin_ctz(lanes_at_least(largest, most));
    const int64_t summit = summit_of_lane[lane];
    int64_t result = 0;
    for (int64_t at = summit * buffers_.blocks_of_summit + lane; at < end_of_summit(summit); at += kLanes) {
      result = maxima[at] == most ? at : result;
    }
    return result;
  }

  // Finishes all rows; returns how many lanes survived.
  int64_t choose_in_float(int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      Leader leader;
      score_in_float(i, first_lanes_[i], leader);
      leaders_[i] = leader;
    }
    for (int64_t i = 0; i < count; ++i) {
      const double score = leaders_[i].score;
      least_[i] = leaders_[i].code < 0 ? kHighest<Sum> : least_sum(i, score + bound_.float_error(rounded_[i], score));
    }
    int64_t lanes = 0;
    for (int64_t i = 0; i < count;) {
      Survivor* end = survivors_;
      for (; i < count && end <= survivors_ + kSurvivors; ++i) end = list_survivors(i, least_[i], end);
      for (const Survivor* at = survivors_; at < end; ++at) score_in_float(at->row, at->lane, leaders_[at->row]);
      lanes += end - survivors_;
    }
    for (int64_t i = 0; i < count; ++i) {
      if (decided(i)) {
        finish(i, leaders_[i].code);
      } else {
        lanes += choose_in_double(i);
      }
    }
    return lanes;
  }

  // Finishes one row; returns how many lanes survived.
  __attribute__((noinline)) int64_t choose_in_double(int64_t i) {
    Nearest nearest;
    int64_t lanes = 0;
    score_in_double(i, first_lanes_[i], nearest);
    if (nearest.code >= 0) {
      const Survivor* end = list_survivors(i, least_sum(i, nearest.score), survivors_);
      for (const Survivor* at = survivors_; at < end; ++at) score_in_double(i, at->lane, nearest);
      lanes = end - survivors_;
    }
    finish(i, nearest.code);
    return lanes;
  }

  void finish(int64_t i, int64_t code) const { finish_row(search_, numbers_[i], rows_[i], code < 0 ? 0 : code, true); }

  // The least sum of a code that may be nearer than one of this score.
  Sum least_sum(int64_t i, double score) const {
    if constexpr (F::kFilter == Filter::float32) {
      return bound_.least_float(rounded_[i], score);
    } else {
      return bound_.least_integer(rounded_[i], score, [&] { return square_of(i); });
    }
  }

  double square_of(int64_t i) const { return -score<Metric::dot>(rows_[i], rows_[i], dimensions_); }

  // Lists the lanes of a row, but for its first, that have a sum of at least `least`; returns the list's new end.
  VISGEN_HOST_DEVICE Survivor* list_survivors(int64_t i, Sum least, Survivor* end) const {
    const int64_t lanes = buffers_.lanes, range = buffers_.blocks_of_summit * kLanes;
    if (!buffers_.has_summits) return list_between(0, lanes, i, least, end);
    const Sum* summits = this->summits(i);
    for (int64_t first = 0; first < lanes; first += range, summits += kLanes) {
      if (lanes_at_least(vector_at(summits), least) == 0) continue;
      end = list_between(first, first + range < lanes ? first + range : lanes, i, least, end);
    }
    return end;
  }

  // The first one of a word is listed without a branch.
  VISGEN_HOST_DEVICE Survivor* list_between(int64_t first, int64_t last, int64_t i, Sum least, Survivor* end) const {
    const int32_t row = static_cast<int32_t>(i);
    for (int64_t at = first; at < last; at += kWord) {
      uint64_t hits = hits_from(maxima(i) + at, last - at, least);
      *end = {row, static_cast<int32_t>(at + first_of(hits))};
      end += hits != 0;
      for (hits &= hits - 1; hits != 0; hits &= hits - 1) *end++ = {row, static_cast<int32_t>(at + first_of(hits))};
    }
    return end;
  }

  // Bit l: lane l of the first 64, or of all there are, is at least `least`.
  static VISGEN_HOST_DEVICE uint64_t hits_from(const Sum* maxima, int64_t lanes, Sum least) {
    const auto hits_among = [&](int64_t count) __attribute__((always_inline)) {
      uint64_t hits = 0;
      for (int64_t lane = 0; lane < count; lane += kLanes) {
        hits |= static_cast<uint64_t>(lanes_at_least(vector_at(maxima + lane), least)) << lane;
      }
      return hits;
    };
    return lanes >= kWord ? hits_among(kWord) : hits_among(lanes);
  }

  // The place of the lowest bit, 63 where there is none.
  static VISGEN_HOST_DEVICE int first_of(uint64_t bits) { return __builtin_ctzll(bits | uint64_t{1} << 63); }

  // Whether scores in double would have the same nearest code.
  bool decided(int64_t i) const {
    const double score = leaders_[i].score, second = leaders_[i].second;
    return second - bound_.float_error(rounded_[i], second) > score + bound_.float_error(rounded_[i], score);
  }

  VISGEN_HOST_DEVICE void score_in_float(int64_t i, int64_t lane, Leader& leader) const {
    const int64_t end = end_of_lane(lane);
    for (int64_t k = lane * packed_.group; k < end; k += 2) {
      const int64_t next = k + 1 < end ? k + 1 : k;  // a last code alone comes second to itself: double decides
      const TwoFloats scores = float_scores<metric>(rows_[i], code(k), code(next), dimensions_);
      leader.consider(packed_.scales[k] < 0 ? HUGE_VALF : scores.first, k);
      leader.consider(packed_.scales[next] < 0 ? HUGE_VALF : scores.second, next);
    }
  }

  void score_in_double(int64_t i, int64_t lane, Nearest& nearest) const {
    for (int64_t k = lane * packed_.group, end = end_of_lane(lane); k < end; ++k) {
      const double other = score<metric>(rows_[i], code(k), dimensions_);
      if (nearest.better(other, k) && packed_.scales[k] >= 0) nearest.score = other, nearest.code = k;
    }
  }

  int64_t end_of_lane(int64_t lane) const {
    const int64_t end = (lane + 1) * packed_.group;
    return end < codes_ ? end : codes_;
  }

  const PackedCodebook& packed_;
  const Search& search_;
  const int64_t codes_, dimensions_;
  const TileBuffers<F, Real>& buffers_;
  const Bound<metric> bound_;
  const bool in_float_;
  const Real* const* rows_;
  const RoundedRow* rounded_;
  const int64_t* numbers_;
  int32_t* first_lanes_;
  Leader* leaders_;
  Sum* least_;
  Survivor* survivors_;
};

}  // namespace visgen::VISGEN_ISA
