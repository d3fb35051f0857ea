// The argmax of logits and noise, from few bits of noise for most codes.
#pragma once

#include "select_row.h"

namespace visgen::VISGEN_ISA {

// x − from of kLanes logits; −∞ where x is below `least`.
VISGEN_HOST_DEVICE FloatVector differences(const float* logits, float from, float least) {
  FloatVector x;
  memcpy(&x, logits, sizeof(x));
  return x < least ? FloatVector{} - kInfinity<float> : x - from;
}

VISGEN_HOST_DEVICE FloatVector differences(const double* logits, double from, double least) {
  float rounded[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    rounded[i] = logits[i] < least ? -kInfinity<float> : static_cast<float>(logits[i] - from);
  }
  FloatVector result;
  memcpy(&result, rounded, sizeof(result));
  return result;
}

// The argmax of ℓ + t·gumbel of the logits from `least` on; t > 0, and `largest` is the largest logit.
//
// Code i can beat the best score so far only if −ln u_i < 2^y, y = (ℓ_i − best) / (t·ln 2). With r the complement of
// the 16 leading bits of u, r·2⁻¹⁶ < −ln u; and 2^y lies below its chord between powers of two. A float's bits, read as
// an integer, are such a chord of its logarithm: so compare bits(r) with (y + 16 + 127)·2²³.
template <class Real>
class Draw {
 public:
  template <class Source>
  Draw(const Row<Real>& row, const Source& source, Real largest, Real least)
      : row_(row), key_(row.seed), t_(row.settings.temperature), largest_(largest), least_(least) {
    const double slope = 0x1p+23 / 0.693147180559945309417 / t_;
    slope_ = slope < 3e38 ? static_cast<float>(slope) : 3e38f;  // a smaller one rules out less
    raise(largest - 3.5248 * t_);                               // the largest logit's score is no smaller
    source.each_tile([&](const Tile<Real>& tile) {
      uint32_t words[kTile / 2 + kGroup];
      const uint16_t* leading = tile.listed ? leading_of_listed(tile, words) : leading_of_range(tile, words);
      if (code_ < 0) try_likeliest(tile, leading);
      for (int64_t i = 0; i < tile.count; i += kLanes) {
        for (uint32_t lanes = negative_lanes(deficits(tile.logits + i, leading + i)); lanes != 0; lanes &= lanes - 1) {
          const int64_t at = i + __builtin_ctz(lanes);
          try_code(tile.code_at(at), tile.logits[at], leading[at]);
        }
      }
    });
  }

  int64_t code() const { return code_; }
  Real logit() const { return logit_; }

 private:
  // The 16 leading bits of the noise of a tile's codes.
  const uint16_t* leading_of_range(const Tile<Real>& tile, uint32_t* words) const {
    const int64_t skipped = tile.begin % 8;
    word_tile(key_, row_.p.stream, (tile.begin - skipped) / 2, (tile.count + skipped + 1) / 2, words);
    return reinterpret_cast<const uint16_t*>(words) + skipped;
  }

  const uint16_t* leading_of_listed(const Tile<Real>& tile, uint32_t* words) const {
    typedef int32_t Codes __attribute__((vector_size(4 * kDoubles)));
    typedef uint16_t Halves __attribute__((vector_size(2 * kDoubles)));
    uint16_t* leading = reinterpret_cast<uint16_t*>(words);
    for (int64_t i = 0; i < tile.count; i += kListed) {
      WideVectors codes;
      PhiloxBlock<WideVectors> counter;
      for (int j = 0; j < WideVectors::kCount; ++j) {
        Codes listed;
        memcpy(&listed, tile.listed + i + j * kDoubles, sizeof(listed));
        codes.vector[j] = __builtin_convertvector(listed, WideVector) + static_cast<uint64_t>(tile.begin);
        counter.word[2].vector[j] = WideVector{} + row_.p.stream;
        counter.word[3].vector[j] = WideVector{} + (row_.p.stream >> 32);
      }
      counter.word[0] = codes >> 3;
      counter.word[1] = codes >> 35;
      const auto made = philox4x32<WideVectors>(counter, key_);
      for (int j = 0; j < WideVectors::kCount; ++j) {
        const WideVector code = codes.vector[j], which = code >> 1 & 3;
        WideVector word = made.word[0].vector[j];
        for (int k = 1; k < 4; ++k) word = which == static_cast<uint64_t>(k) ? made.word[k].vector[j] : word;
        const Halves halves = __builtin_convertvector(word >> ((code & 1) << 4), Halves);
        memcpy(leading + i + j * kDoubles, &halves, sizeof(halves));
      }
    }
    return leading;
  }

  // What each of kLanes codes lacks to win: it cannot unless that is negative.
  FloatVector deficits(const Real* logits, const uint16_t* leading) const {
    ShortVector halves;
    memcpy(&halves, leading, sizeof(halves));
    const WordVector complement = widen(~halves);
    const IntVector logarithm = (IntVector)Lanes<WordVector>::from_unsigned(complement);
    return Lanes<WordVector>::from_signed(logarithm) - (differences(logits, largest_, least_) * slope_ + intercept_);
  }

  // A good score to begin with: of the code of a tile that lacks least, which is only likely to have the largest one.
  void try_likeliest(const Tile<Real>& tile, const uint16_t* leading) {
    FloatVector least = FloatVector{} + kInfinity<float>;
    IntVector vector{};
    for (int64_t i = 0; i < tile.count; i += kLanes) {
      const FloatVector lacking = deficits(tile.logits + i, leading + i);
      vector = lacking < least ? IntVector{} + static_cast<int32_t>(i) : vector;
      least = lacking < least ? lacking : least;
    }
    int lane = 0;
    for (int other = 1; other < kLanes; ++other) lane = least[other] < least[lane] ? other : lane;
    const int64_t at = vector[lane] + lane;
    if (least[lane] < kInfinity<float>) try_code(tile.code_at(at), tile.logits[at], leading[at]);
  }

  __attribute__((noinline)) void try_code(int64_t code, Real logit, uint16_t leading) {
    const uint64_t place = static_cast<uint64_t>(code);
    const auto rest = philox_block(row_.seed, rest_stream(row_.p.stream), place / 4);
    const uint64_t bits = static_cast<uint64_t>(leading) << 32 | static_cast<uint32_t>(rest.word[place % 4]);
    const double score = logit + t_ * gumbel<double>(bits);
    if (code_ >= 0 && !(score > score_ || (score == score_ && code < code_))) return;
    code_ = code, logit_ = logit, score_ = score;
    raise(score);
  }

  // The intercept of a score to beat, a little more where it or the deficits were rounded. It never rises.
  void raise(double score) {
    const double gap = largest_ - score, rounding = 0x1p-50 * (magnitude(largest_) + magnitude(score));
    const double intercept = ((gap + rounding) / t_ / 0.693147180559945309417 + (16 + 127)) * 0x1p+23;
    const double above = intercept + magnitude(intercept) * 0x1p-20 + 1024;
    const float rounded = above < 1e38 ? static_cast<float>(above) : 1e38f;
    intercept_ = rounded < intercept_ ? rounded : intercept_;
  }
  static double magnitude(double x) { return x < 0 ? -x : x; }

  const Row<Real>& row_;
  const PhiloxKey key_;
  const double t_;
  const Real largest_, least_;
  float slope_, intercept_ = kInfinity<float>;
  int64_t code_ = -1;
  Real logit_ = 0;
  double score_ = 0;
};

}  // namespace visgen::VISGEN_ISA
