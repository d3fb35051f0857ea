// What loops that noise pictures are made of: the noise of a tile, and its rows of coefficients.
#pragma once

#include "../../ops/diffuse.h"
#include "stored.h"
#include "tile.h"

namespace visgen::VISGEN_ISA {

// Noise that is given, or made from the seeds.
template <class Real>
const Real* noise_tile(const Diffusion& p, int64_t sample, int64_t begin, int64_t count, Real* buffer) {
  if (p.noise.data) return load_tile(p.noise, p.shape, sample, begin, count, buffer);
  return normal_tile(static_cast<uint64_t>(p.seeds[sample]), p.stream, begin, count, buffer);
}

// Calls body(place, vector of normal numbers) for whole groups from `begin`, a multiple of 4, on. With AVX-512's 32
// registers the noise goes from them straight to where it is used, so that storing one group overlaps with computing
// the next: a fifth faster than through the cache. The key is the caller's: made here, the compiler would spread it
// over vectors at each call, which takes as long as 40 numbers.
template <class Body>
VISGEN_HOST_DEVICE void for_each_normal_vector(const PhiloxKey& key, uint64_t stream, int64_t begin, int64_t count,
                                               Body body) {
  for (int64_t done = 0; done < count; done += kGroup) {
    const BlockWords words = philox_blocks(key, stream, static_cast<uint64_t>(begin + done) / 4);
    for (int i = 0; i < BlockWords::kSets; ++i) {
      FloatVector z[4];
      normal_set(words.set[i], z);
      for (int j = 0; j < 4; ++j) body(done + i * kSet + j * kLanes, z[j]);
    }
  }
}

#if defined(__AVX512BF16__)
// Four vectors of a set of blocks in the order of words (element 4·i + j is lane i of value[j]), from bfloat16 in the
// order of elements and back: half as many vectors are reordered as if the normal numbers were.
VISGEN_HOST_DEVICE void take_set(const BFloat16Bits* from, FloatVector (&value)[4]) {
  IntVector even;  // words: elements 4·i and 4·i + 1 are the halves of word 2·i
  for (int lane = 0; lane < kLanes; ++lane) even[lane] = 2 * lane;
  const auto first = take<WordVector>(&from->bits), second = take<WordVector>(&from[2 * kLanes].bits);
  const WordVector pairs[2] = {__builtin_shuffle(first, second, even), __builtin_shuffle(first, second, even + 1)};
  for (int j = 0; j < 4; ++j) {
    value[j] = (FloatVector)(j % 2 == 0 ? pairs[j / 2] << 16 : pairs[j / 2] & 0xFFFF0000u);
  }
}

VISGEN_HOST_DEVICE void put_set(BFloat16Bits* to, const FloatVector (&value)[4]) {
  typedef uint16_t Shorts __attribute__((vector_size(64)));
  const auto low = (Shorts)_mm512_cvtne2ps_pbh((__m512)value[1], (__m512)value[0]);
  const auto high = (Shorts)_mm512_cvtne2ps_pbh((__m512)value[3], (__m512)value[2]);
  Shorts order;
  for (int i = 0; i < 32; ++i) order[i] = i / 4 + i % 4 * kLanes;
  put(&to->bits, __builtin_shuffle(low, high, order));
  put(&to[2 * kLanes].bits, __builtin_shuffle(low, high, order + 8));
}

// Whether a·x + b·z can be rounded by AVX512_BF16's instructions, for which NaN and subnormal numbers are others than
// for to_bfloat16. Where a is a number, b lies between 2^-20 and 2^20, x is neither NaN nor infinite, and z is not 0,
// the sum is no NaN, and no subnormal number either: |z| > 2^-46, so that |b·z| > 2^-66, a multiple of 2^-113 at least;
// if a·x is not less than half of that, it is a multiple of 2^-98 (32 bits); and so is their sum, which therefore is 0
// or above 2^-114. Coefficients are looked at once; sets of x and z, as they pass, by five instructions.
class RoundsByInstruction {
 public:
  static bool allows(float a, float b) {
    const float size = b < 0 ? -b : b;
    return a - a == 0 && size >= 0x1p-20f && size <= 0x1p+20f;
  }

  VISGEN_HOST_DEVICE void see(const BFloat16Bits* x, const FloatVector (&z)[4]) {
    const auto first = take<WordVector>(&x->bits), second = take<WordVector>(&x[2 * kLanes].bits);
    products_ = _mm512_dpbf16_ps(products_, (__m512bh)first, (__m512bh)second);  // from NaN or infinity on one of them
    constexpr int kSmallerMagnitude = 2;
    const auto product = (__m512)((z[0] * z[1]) * (z[2] * z[3]));  // 0 where one of them is
    least_ = _mm512_range_ps(least_, product, kSmallerMagnitude);
  }

  bool saw_none() const {
    const __m512 zero = _mm512_setzero_ps(), difference = _mm512_sub_ps(products_, products_);
    return !_mm512_cmp_ps_mask(difference, zero, _CMP_NEQ_UQ) && !_mm512_cmp_ps_mask(least_, zero, _CMP_EQ_OQ);
  }

 private:
  __m512 products_ = _mm512_setzero_ps(), least_ = _mm512_set1_ps(1.0f);
};
#endif

template <class Real>
void combine(Real a, const Real* __restrict x, Real b, const Real* __restrict z, Real* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = a * x[i] + b * z[i];
}

template <class Real>
void add_scaled(Real e, const Real* __restrict x, Real* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] += e * x[i];
}

// Calls body(row of coefficients, offset in the tile, length) for the rows that a tile meets.
template <class Body>
void for_each_row(const Diffusion& p, int64_t sample, int64_t begin, int64_t count, Body body) {
  if (p.row_size == p.shape.elements) return body(sample, 0, count);
  const int64_t rows_per_sample = p.shape.elements / p.row_size;
  for (int64_t offset = 0; offset < count;) {
    const int64_t row = (begin + offset) / p.row_size;
    const int64_t left = (row + 1) * p.row_size - (begin + offset);
    const int64_t length = left < count - offset ? left : count - offset;
    body(sample * rows_per_sample + row, offset, length);
    offset += length;
  }
}

}  // namespace visgen::VISGEN_ISA
