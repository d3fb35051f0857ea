// The inner loop of a filter: inner products of a few rows with a block of codes, and their largest in each lane.
//
// The accumulators, 24 with the 32 registers of AVX-512 and of NEON and 12 otherwise, stay in registers: rows × vectors
// of a block. A step costs one multiply-add instruction each (two for int16 without VNNI), and loads a word of every
// row and a block's vectors: 6 to 14 loads for 24 accumulators. gcc 12 spills accumulators of VNNI's and NEON's
// intrinsics, hence the assembly. NEON has no int16 filter: it would take four instructions where float32 takes two.
#pragma once

#include "residual.h"

namespace visgen::VISGEN_ISA {

constexpr int kAccumulators = kRegisters == 32 ? 24 : 12;

VISGEN_HOST_DEVICE IntVector larger(IntVector a, IntVector b) { return a > b ? a : b; }
VISGEN_HOST_DEVICE FloatVector larger(FloatVector a, FloatVector b) { return a > b ? a : b; }

VISGEN_HOST_DEVICE int32_t largest_lane(IntVector value) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_epi32((__m512i)value);
#endif
  int32_t largest = value[0];
  for (int lane = 1; lane < kLanes; ++lane) largest = value[lane] > largest ? value[lane] : largest;
  return largest;
}
VISGEN_HOST_DEVICE float largest_lane(FloatVector value) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)value);
#endif
  float largest = value[0];
  for (int lane = 1; lane < kLanes; ++lane) largest = value[lane] > largest ? value[lane] : largest;
  return largest;
}

// Bit l: lane l of `value` is at least `least`.
VISGEN_HOST_DEVICE uint32_t lanes_at_least(IntVector value, int32_t least) {
#if defined(__AVX512F__)
  return _mm512_cmpge_epi32_mask((__m512i)value, _mm512_set1_epi32(least));
#elif defined(__AVX2__)
  return ~_mm256_movemask_ps((__m256)(value < least)) & 0xFFu;
#elif defined(__SSE2__)
  return ~_mm_movemask_ps((__m128)(value < least)) & 0xFu;
#elif defined(__aarch64__)
  return lane_bits(value >= least);
#else
  uint32_t lanes = 0;
  for (int lane = 0; lane < kLanes; ++lane) lanes |= static_cast<uint32_t>(value[lane] >= least) << lane;
  return lanes;
#endif
}
VISGEN_HOST_DEVICE uint32_t lanes_at_least(FloatVector value, float least) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)value, _mm512_set1_ps(least), _CMP_GE_OQ);
#elif defined(__AVX2__)
  return _mm256_movemask_ps((__m256)(value >= least));
#elif defined(__SSE2__)
  return _mm_movemask_ps((__m128)(value >= least));
#elif defined(__aarch64__)
  return lane_bits(value >= least);
#else
  uint32_t lanes = 0;
  for (int lane = 0; lane < kLanes; ++lane) lanes |= static_cast<uint32_t>(value[lane] >= least) << lane;
  return lanes;
#endif
}

struct Float32 {
  static constexpr Filter kFilter = Filter::float32;
  static constexpr int kDimensionsOfWord = 1, kOffset = 0;
  using Vector = FloatVector;
  using Sum = float;
  static VISGEN_HOST_DEVICE void add(FloatVector& sum, FloatVector code, FloatVector row) {
#if defined(__AVX512F__)
    sum = (FloatVector)_mm512_fmadd_ps((__m512)code, (__m512)row, (__m512)sum);
#elif defined(__FMA__)
    sum = (FloatVector)_mm256_fmadd_ps((__m256)code, (__m256)row, (__m256)sum);
#elif defined(__aarch64__)
    asm("fmla %0.4s, %1.4s, %2.4s" : "+w"(sum) : "w"(code), "w"(row));
#else
    sum += code * row;
#endif
  }
};

#if defined(__SSE2__)
#define VISGEN_INT16_FILTER 1
struct Int16 {
  static constexpr Filter kFilter = Filter::int16;
  static constexpr int kDimensionsOfWord = 2;
  using Vector = IntVector;
  using Sum = int32_t;
  using Element = int16_t;
  static constexpr int kOffset = 0;
  static VISGEN_HOST_DEVICE void add(IntVector& sum, IntVector code, IntVector row) {
#if defined(__AVX512VNNI__)
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(code), "v"(row));
#elif defined(__AVX512F__)
    sum += (IntVector)_mm512_madd_epi16((__m512i)code, (__m512i)row);
#elif defined(__AVX2__)
    sum += (IntVector)_mm256_madd_epi16((__m256i)code, (__m256i)row);
#else
    sum += (IntVector)_mm_madd_epi16((__m128i)code, (__m128i)row);
#endif
  }
};
#endif

#if defined(__AVX512VNNI__) || defined(__ARM_FEATURE_DOTPROD)
#define VISGEN_INT8_FILTER 1
struct Int8 {  // rows are signed, codes too, or else offset by 128
  static constexpr Filter kFilter = Filter::int8;
  static constexpr int kDimensionsOfWord = 4;
  using Vector = IntVector;
  using Sum = int32_t;
  using Element = int8_t;
#if defined(__AVX512VNNI__)
  static constexpr int kOffset = 128;
  static VISGEN_HOST_DEVICE void add(IntVector& sum, IntVector code, IntVector row) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(code), "v"(row));
  }
#else
  static constexpr int kOffset = 0;
  static VISGEN_HOST_DEVICE void add(IntVector& sum, IntVector code, IntVector row) {
    asm("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(code), "w"(row));
  }
#endif
};
#endif

// The numbers from 0 to N − 1, for pack expansions: gcc 12 leaves the accumulators of unrolled loops in memory.
template <int... I>
struct Numbers {};
#if defined(__clang__)
template <class, int... I>
using MadeNumbers = Numbers<I...>;
template <int N>
using NumbersUpTo = __make_integer_seq<MadeNumbers, int, N>;
#else
template <int N>
using NumbersUpTo = Numbers<__integer_pack(N)...>;
#endif

// Rows' words lie interleaved, [step][row]. `start` holds the V vectors that sums start from. maxima[r · stride + lane]
// becomes the largest sum of row r with the codes of a lane; summits[r · summit_stride + lane], if wanted too, is
// raised to it.
template <class F, int V, bool summits_too, int... I, int... Row, int... Code>
VISGEN_HOST_DEVICE void scan_block(const typename F::Vector* codes, const typename F::Sum* rows, int64_t steps,
                                   const typename F::Vector* start, typename F::Sum* maxima, int64_t stride,
                                   typename F::Sum* summits, int64_t summit_stride, Numbers<I...>, Numbers<Row...>,
                                   Numbers<Code...>) {
  using Vector = typename F::Vector;
  constexpr int R = kAccumulators / V;
  Vector sum[kAccumulators] = {start[I % V]...};
  for (int64_t step = 0; step < steps; ++step, codes += V, rows += R) {
    if constexpr (R >= V) {
      const Vector code[V] = {codes[Code]...};
      const auto add_row = [&](int r) __attribute__((always_inline)) {
        const Vector row = Vector{} + rows[r];
        (F::add(sum[r * V + Code], code[Code], row), ...);
      };
      (add_row(Row), ...);
    } else {
      const Vector row[R] = {(Vector{} + rows[Row])...};
      const auto add_code = [&](int v) __attribute__((always_inline)) {
        const Vector code = codes[v];
        (F::add(sum[Row * V + v], code, row[Row]), ...);
      };
      (add_code(Code), ...);
    }
  }
  const auto store = [&](int r) __attribute__((always_inline)) {
    Vector largest = sum[r * V];
    ((largest = larger(largest, sum[r * V + Code])), ...);
    memcpy(maxima + r * stride, &largest, sizeof(largest));
    if constexpr (!summits_too) return;
    Vector summit;
    memcpy(&summit, summits + r * summit_stride, sizeof(summit));
    summit = larger(summit, largest);
    memcpy(summits + r * summit_stride, &summit, sizeof(summit));
  };
  (store(Row), ...);
}

template <class F, int V, bool summits_too>
VISGEN_HOST_DEVICE void scan_block(const typename F::Vector* codes, const typename F::Sum* rows, int64_t steps,
                                   const typename F::Vector* start, typename F::Sum* maxima, int64_t stride,
                                   typename F::Sum* summits, int64_t summit_stride) {
  scan_block<F, V, summits_too>(codes, rows, steps, start, maxima, stride, summits, summit_stride,
                                NumbersUpTo<kAccumulators>{}, NumbersUpTo<kAccumulators / V>{}, NumbersUpTo<V>{});
}

}  // namespace visgen::VISGEN_ISA
