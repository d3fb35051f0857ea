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
        survivors_(buffers.survivors.template as<int32_t>()),
        ends_(buffers.ends.template as<int32_t>()) {}

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
    Sum* maxima = this->maxima(i);
    const Sum* summits = this->summits(i);
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
    first_lanes_[i] = static_cast<int32_t>(result);
    maxima[result] = kLowest<Sum>;
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
    for (int64_t begin = 0, end = 0; begin < count; begin = end) {
      int64_t listed = 0, at = 0;
      for (; end < count && listed <= kSurvivors; ++end) {
        for_survivors(end, least_[end], [&](int64_t lane) { survivors_[listed++] = static_cast<int32_t>(lane); });
        ends_[end] = static_cast<int32_t>(listed);
      }
      for (int64_t i = begin; i < end; ++i) {
        Leader leader = leaders_[i];
        for (; at < ends_[i]; ++at) score_in_float(i, survivors_[at], leader);
        leaders_[i] = leader;
      }
      lanes += listed;
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
      for_survivors(i, least_sum(i, nearest.score), [&](int64_t lane) {
        score_in_double(i, lane, nearest);
        ++lanes;
      });
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

  // visit(lane) for the lanes of a row, but for its first, that have a sum of at least `least`.
  template <class Visit>
  VISGEN_HOST_DEVICE void for_survivors(int64_t i, Sum least, const Visit& visit) const {
    const Sum *maxima = this->maxima(i), *summits = this->summits(i);
    const int64_t lanes = buffers_.lanes, summit_lanes = buffers_.summit_lanes;
    const int64_t range = buffers_.blocks_of_summit * kLanes;
    for (int64_t summit = 0, first = 0; summit < summit_lanes; summit += kLanes, first += range) {
      if (lanes_at_least(vector_at(summits + summit), least) == 0) continue;
      const int64_t last = first + range < lanes ? first + range : lanes;
      for (int64_t at = first; at < last; at += kLanes) {
        for (uint32_t hits = lanes_at_least(vector_at(maxima + at), least); hits != 0; hits &= hits - 1) {
          visit(at + __builtin_ctz(hits));
        }
      }
    }
  }

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
  int32_t *survivors_, *ends_;
};

}  // namespace visgen::VISGEN_ISA
