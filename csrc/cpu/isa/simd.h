// The widest vectors of the instruction set this file is compiled for, as GNU vector extensions: operators work on
// them, so common/philox.h and common/math.h serve them unchanged. Only what has no operator is spelled out here.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#if !defined(__clang__)
#pragma GCC diagnostic push  // gcc 12 takes the header's own "undefined" vectors for a fault
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../../common/gumbel.h"
#include "../../common/math.h"
#include "../../common/philox.h"

namespace visgen::VISGEN_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
constexpr int kLanes = kVectorBytes / 4, kDoubles = kVectorBytes / 8;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

typedef uint64_t WideVector __attribute__((vector_size(kVectorBytes)));
typedef uint32_t WordVector __attribute__((vector_size(kVectorBytes)));
typedef int32_t IntVector __attribute__((vector_size(kVectorBytes)));
typedef float FloatVector __attribute__((vector_size(kVectorBytes)));
typedef double DoubleVector __attribute__((vector_size(kVectorBytes)));

template <>
struct LowHalves<WideVector> {
  static VISGEN_HOST_DEVICE WideVector multiply(WideVector lane, uint32_t factor) {
    const WideVector factors = WideVector{} + static_cast<uint64_t>(factor);
#if defined(__AVX512F__)
    return (WideVector)_mm512_mul_epu32((__m512i)lane, (__m512i)factors);
#elif defined(__AVX2__)
    return (WideVector)_mm256_mul_epu32((__m256i)lane, (__m256i)factors);
#elif defined(__SSE2__)
    return (WideVector)_mm_mul_epu32((__m128i)lane, (__m128i)factors);
#elif defined(__aarch64__)
    return (WideVector)vmull_u32(vmovn_u64((uint64x2_t)lane), vmovn_u64((uint64x2_t)factors));
#else
    return (lane & 0xFFFFFFFFu) * factors;
#endif
  }
};

template <>
struct Lanes<WordVector> {
  using Int = IntVector;
  using Float = FloatVector;
  static VISGEN_HOST_DEVICE FloatVector from_unsigned(WordVector value) {
    return __builtin_convertvector(value, FloatVector);
  }
  static VISGEN_HOST_DEVICE FloatVector from_signed(IntVector value) {
    return __builtin_convertvector(value, FloatVector);
  }
  static VISGEN_HOST_DEVICE IntVector is_set(WordVector word, uint32_t bit) { return (word & bit) != 0u; }
  static VISGEN_HOST_DEVICE FloatVector less_twice(FloatVector a, FloatVector b) { return a - 2.0f * b; }
  static VISGEN_HOST_DEVICE FloatVector sqrt(FloatVector value) {
#if defined(__AVX512F__)
    return (FloatVector)_mm512_sqrt_ps((__m512)value);
#elif defined(__AVX2__)
    return (FloatVector)_mm256_sqrt_ps((__m256)value);
#elif defined(__SSE2__)
    return (FloatVector)_mm_sqrt_ps((__m128)value);
#elif defined(__aarch64__)
    return (FloatVector)vsqrtq_f32((float32x4_t)value);
#else
    for (int lane = 0; lane < kLanes; ++lane) value[lane] = __builtin_sqrtf(value[lane]);
    return value;
#endif
  }
};

template <>
struct WordOfFloat<FloatVector> {
  using Word = WordVector;
};
template <>
struct WordOfFloat<DoubleVector> {
  using Word = WideVector;
};

// As many 16-bit numbers as a vector has lanes, into the lanes and back. Compilers convert them in two halves.
typedef uint16_t ShortVector __attribute__((vector_size(kVectorBytes / 2)));

VISGEN_HOST_DEVICE WordVector widen(ShortVector value) {
#if defined(__AVX512F__)
  return (WordVector)_mm512_cvtepu16_epi32((__m256i)value);
#elif defined(__AVX2__)
  return (WordVector)_mm256_cvtepu16_epi32((__m128i)value);
#elif defined(__SSE2__)
  return (WordVector)_mm_unpacklo_epi16(_mm_cvtsi64_si128(bits_as<int64_t>(value)), _mm_setzero_si128());
#else
  return __builtin_convertvector(value, WordVector);
#endif
}

// Of lanes below 2¹⁶.
VISGEN_HOST_DEVICE ShortVector narrow(WordVector value) {
#if defined(__AVX512F__)
  return (ShortVector)_mm512_cvtepi32_epi16((__m512i)value);
#elif defined(__AVX2__)
  const __m256i halves = _mm256_packus_epi32((__m256i)value, (__m256i)value);
  return (ShortVector)_mm256_castsi256_si128(_mm256_permute4x64_epi64(halves, 0x08));
#elif defined(__SSE2__)
  const __m128i extended = _mm_srai_epi32(_mm_slli_epi32((__m128i)value, 16), 16);
  return bits_as<ShortVector>(_mm_cvtsi128_si64(_mm_packs_epi32(extended, extended)));
#else
  return __builtin_convertvector(value, ShortVector);
#endif
}

#if defined(__aarch64__)
// Bit l: lane l, which is 0 or −1. There is no instruction for it.
VISGEN_HOST_DEVICE uint32_t lane_bits(IntVector mask) {
  return vaddvq_u32(vandq_u32((uint32x4_t)mask, uint32x4_t{1, 2, 4, 8}));
}
#endif

// Several vectors whose instructions alternate: a Philox round is a chain of dependent instructions, and four chains
// keep the multipliers busy (on Zen 4, a quarter faster than one after the other).
struct WideVectors {
  static constexpr int kCount = 4;
  WideVector vector[kCount];

  VISGEN_HOST_DEVICE WideVectors operator>>(int bits) const {
    WideVectors result;
    for (int i = 0; i < kCount; ++i) result.vector[i] = vector[i] >> bits;
    return result;
  }
  VISGEN_HOST_DEVICE WideVectors operator^(const WideVectors& other) const {
    WideVectors result;
    for (int i = 0; i < kCount; ++i) result.vector[i] = vector[i] ^ other.vector[i];
    return result;
  }
  VISGEN_HOST_DEVICE WideVectors operator^(uint64_t bits) const {
    WideVectors result;
    for (int i = 0; i < kCount; ++i) result.vector[i] = vector[i] ^ bits;
    return result;
  }
};

template <>
struct LowHalves<WideVectors> {
  static VISGEN_HOST_DEVICE WideVectors multiply(const WideVectors& lanes, uint32_t factor) {
    WideVectors result;
    for (int i = 0; i < WideVectors::kCount; ++i) {
      result.vector[i] = LowHalves<WideVector>::multiply(lanes.vector[i], factor);
    }
    return result;
  }
};

// Words of consecutive blocks: word[j] of set i holds word j of the kLanes blocks from block + i·kLanes on.
struct BlockWords {
  static constexpr int kSets = WideVectors::kCount / 2;
  WordVector set[kSets][4];
};

VISGEN_HOST_DEVICE BlockWords philox_blocks(const PhiloxKey& key, uint64_t stream, uint64_t block) {
  WideVector even{}, low_half = WideVector{} + 0xFFFFFFFFull;
  for (int lane = 0; lane < kLanes / 2; ++lane) even[lane] = 2 * lane;
  even += block;
  PhiloxBlock<WideVectors> counter;
  for (int i = 0; i < WideVectors::kCount; ++i) {  // even blocks of a set, then its odd ones
    counter.word[0].vector[i] = even + static_cast<uint64_t>(i / 2 * kLanes + i % 2);
    counter.word[1].vector[i] = counter.word[0].vector[i] >> 32;
    counter.word[2].vector[i] = WideVector{} + stream;
    counter.word[3].vector[i] = WideVector{} + (stream >> 32);
  }
  const auto made = philox4x32<WideVectors>(counter, key);
  BlockWords result;
  for (int i = 0; i < BlockWords::kSets; ++i) {
    for (int j = 0; j < 4; ++j) {
      const WideVector* halves = made.word[j].vector + 2 * i;
      result.set[i][j] = (WordVector)((halves[0] & low_half) | (halves[1] << 32));
    }
  }
  return result;
}

// Reorders four vectors so that, stored one after the other, element 4·i + j is lane i of value[j].
template <class Vector>
VISGEN_HOST_DEVICE void interleave(Vector (&value)[4]) {
#if defined(__clang__)  // has no shuffle by a computed vector, and makes shuffles of this loop by itself
  Vector result[4];
  for (int i = 0; i < 4 * kLanes; ++i) result[i / kLanes][i % kLanes] = value[i % 4][i / 4];
#else
  IntVector low, high;  // two-way interleaving twice
  for (int lane = 0; lane < kLanes / 2; ++lane) {
    low[2 * lane] = lane, low[2 * lane + 1] = kLanes + lane;
    high[2 * lane] = kLanes / 2 + lane, high[2 * lane + 1] = kLanes + kLanes / 2 + lane;
  }
  const Vector low_02 = __builtin_shuffle(value[0], value[2], low);
  const Vector high_02 = __builtin_shuffle(value[0], value[2], high);
  const Vector low_13 = __builtin_shuffle(value[1], value[3], low);
  const Vector high_13 = __builtin_shuffle(value[1], value[3], high);
  const Vector result[4] = {__builtin_shuffle(low_02, low_13, low), __builtin_shuffle(low_02, low_13, high),
                            __builtin_shuffle(high_02, high_13, low), __builtin_shuffle(high_02, high_13, high)};
#endif
  for (int j = 0; j < 4; ++j) value[j] = result[j];
}

}  // namespace visgen::VISGEN_ISA
