// What a block of the filtering search keeps in shared memory, and the bound of its scores.
//
// The bound. Score s of a code c for a residual r: r·c − ½‖c‖² (l2), r·c (dot), or r·c with c the code's direction
// (cosine); the nearest code has the largest. With any μ, r·μ − ½‖μ‖² taken from every score of a row, r·d − h remains:
// d = c − μ, h = ½‖c‖² − ½‖μ‖² = ½d·(c + μ) (for l2). The tensor cores compute r̂·d̂, r̂ and d̂ in bfloat16. With n = ‖d‖,
// ρ the largest ‖d − d̂‖/n, and C the largest n + 2‖μ‖ of the codebook,
//   |r·d − r̂·d̂| = |(r − r̂)·d + r̂·(d − d̂)| ≤ n·(‖r − r̂‖ + ρ‖r̂‖).
// Products of bfloat16 are exact in float. A tensor core adds them in an order of its own, and may cut off instead of
// rounding: each of D additions errs by at most 2⁻²² of Σ|r̂ᵢd̂ᵢ| ≤ (1 + ρ)n‖r̂‖ (Fasi et al., "Numerical behavior of
// NVIDIA tensor cores", 2021, found at most 2⁻²³ of the largest term), so together by n·D·2⁻²¹·‖r̂‖. What follows in
// float, with |h| ≤ ½nC, is less than ten roundings of numbers below n(2‖r̂‖ + C + 2α): n·2⁻²⁰·(‖r̂‖ + C). Numbers below
// 2⁻¹²⁶ may be lost: at most D·2⁻¹²⁵, which n ≥ 2⁻⁸⁰ turns into n·D·2⁻⁴⁴. Hence
//   α = (1 + 2⁻⁸)·(‖r − r̂‖ + (ρ + D·2⁻²¹)‖r̂‖ + 2⁻²⁰(‖r̂‖ + C) + D·2⁻⁴⁴),     |s − computed s| ≤ α·n,
// where 2⁻⁸ covers the rounding of the norms and of α itself. A code survives if its upper end, computed s + α·n, is
// not below the largest lower end of any code. All codes that tie with the nearest one survive. Beyond 2⁶⁰ floats might
// overflow: there is no bound (α is NaN) and the row is scanned.
#pragma once

#include <cmath>

#include "../common/math.h"

#include "quantize_prepare.cuh"
#include "quantize_row.cuh"

namespace visgen {

constexpr int kGroups = 4;  // warps side by side, each with its quarter of a tile's codes
constexpr int kGroupCodes = kTileCodes / kGroups;
constexpr int kStages = 3;

struct alignas(16) Stage {
  uint16_t codes[kTileCodes * kChunk];
  CodeTerm terms[kTileCodes];  // filled with the last chunk of a tile
};

// A code that may be the nearest, with the upper end of its score.
struct Listed {
  float upper;
  int32_t code;
};

constexpr float kNoScore = -3.402823466e38f;  // below every score, but above the −∞ of codes that cannot be chosen

__device__ __forceinline__ float bound_of(double rounding, double norm, const Worst& worst, int64_t dimensions) {
  if (!(norm <= kLargestNorm && worst.norm <= kLargestNorm)) return NAN;
  const double D = static_cast<double>(dimensions);
  return static_cast<float>(
      (1 + 0x1p-8) * (rounding + (worst.error + D * 0x1p-21) * norm + 0x1p-20 * (norm + worst.norm) + D * 0x1p-44));
}

// Sections of the dynamic shared memory. Rows of `high` are 16 bytes longer than their elements, so that the eight rows
// that a load of matrices reads together lie in different banks.
struct FilterMemory {
  Stage* stages;
  uint16_t *high, *low;  // [rows, high_stride], [rows, padded]: the residuals, see SplitResidual
  float* lower;          // [2, rows, kGroups]: the largest lower ends, after even and after odd tiles
  Listed* lists;         // [rows, kGroups, capacity]
  float* alpha;          // [rows]; NaN: nothing is looked for, or no bound holds
  uint8_t* counts;       // [rows, kGroups]
  uint8_t* scanned;      // [rows]: 1 where the list does not tell
  int rows, padded, high_stride, capacity;

  __host__ __device__ __forceinline__ static size_t bytes(int rows, int64_t padded, int capacity) {
    const size_t a_row = 2 * (padded + kPiece) + 2 * padded + 2 * kGroups * sizeof(float) +
                         kGroups * capacity * sizeof(Listed) + sizeof(float) + kGroups + 1;
    return kStages * sizeof(Stage) + rows * a_row;
  }

  __device__ __forceinline__ FilterMemory(int rows, int padded, int capacity)
      : rows(rows), padded(padded), high_stride(padded + kPiece), capacity(capacity) {
    stages = dynamic_shared<Stage>();
    high = reinterpret_cast<uint16_t*>(stages + kStages);
    low = high + rows * high_stride;
    lower = reinterpret_cast<float*>(low + rows * padded);
    lists = reinterpret_cast<Listed*>(lower + 2 * rows * kGroups);
    alpha = reinterpret_cast<float*>(lists + rows * kGroups * capacity);
    counts = reinterpret_cast<uint8_t*>(alpha + rows);
    scanned = counts + rows * kGroups;
  }

  __device__ __forceinline__ float* lower_of(int64_t tile, int row) const {
    return lower + (static_cast<int>(tile % 2) * rows + row) * kGroups;
  }
};

// A float as two halves of its bits: the upper one rounded, so that it is the nearest bfloat16 and an operand of the
// tensor cores; with the lower one the float is whole again, in the 4 bytes of a float.
struct SplitResidual {
  uint16_t *high, *low;

  __device__ __forceinline__ SplitResidual(const FilterMemory& memory, int row)
      : high(memory.high + row * memory.high_stride), low(memory.low + row * memory.padded) {}

  __device__ __forceinline__ void load(int64_t begin, float (&r)[kSpan]) const {
    const auto upper = load_vec<kSpan>(high + begin), rest = load_vec<kSpan>(low + begin);
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      const uint32_t cut = upper[i] - (static_cast<uint32_t>(rest[i]) >> 15);
      r[i] = cuda::bits_as<float>(cut << 16 | rest[i]);
    }
  }
  __device__ __forceinline__ void store(int64_t begin, const float (&r)[kSpan]) const {
    Vec<uint16_t, kSpan> upper, rest;
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      const uint32_t bits = cuda::bits_as<uint32_t>(r[i]);
      upper[i] = static_cast<uint16_t>((bits + 0x8000u) >> 16);
      rest[i] = static_cast<uint16_t>(bits);
    }
    store_vec(high + begin, upper);
    store_vec(low + begin, rest);
  }
};

// α of a row whose residual is in place; called by its warp.
__device__ __forceinline__ float measure_row(const FilterMemory& memory, int row, const Worst& worst) {
  const SplitResidual residual(memory, row);
  double rounding = 0, square = 0;
  for_each_tile(memory.padded, [&](int64_t begin) {
    float r[kSpan];
    residual.load(begin, r);
    const auto upper = load_vec<kSpan>(residual.high + begin);
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      const double rounded = cuda::bfloat16_to_float(upper[i]), error = r[i] - rounded;
      rounding += error * error;
      square += rounded * rounded;
    }
  });
  return bound_of(sqrt(warp_sum(rounding)), sqrt(warp_sum(square)), worst, memory.padded);
}

}  // namespace visgen
