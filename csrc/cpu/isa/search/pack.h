// From codebooks and rows to the words that a filter multiplies.
#pragma once

#include "filter.h"

namespace visgen::VISGEN_ISA {

VISGEN_HOST_DEVICE FloatVector load_floats(const float* in) {
  FloatVector value;
  memcpy(&value, in, sizeof(value));
  return value;
}

// Up to kLanes values, then zeros.
VISGEN_HOST_DEVICE FloatVector some_floats(const float* in, int64_t count) {
  FloatVector value = {};
  if (count >= kLanes) return load_floats(in);
#if defined(__AVX512F__)
  return (FloatVector)_mm512_maskz_loadu_ps((1u << count) - 1, in);
#endif
  for (int64_t i = 0; i < count; ++i) value[i] = in[i];
  return value;
}

// The same, times a factor.
VISGEN_HOST_DEVICE FloatVector scaled_floats(const float* in, int64_t count, float factor) {
  return some_floats(in, count) * factor;
}
VISGEN_HOST_DEVICE FloatVector scaled_floats(const double* in, int64_t count, double factor) {
  FloatVector value = {};
  for (int64_t i = 0; i < kLanes && i < count; ++i) value[i] = static_cast<float>(in[i] * factor);
  return value;
}

VISGEN_HOST_DEVICE float sum_of(FloatVector value) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)value);
#endif
  float total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += value[lane];
  return total;
}
VISGEN_HOST_DEVICE int32_t sum_of(IntVector value) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)value);
#endif
  int32_t total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += value[lane];
  return total;
}

// The sums of two vectors, together.
struct TwoFloats {
  float first, second;
};
VISGEN_HOST_DEVICE TwoFloats sums_of(FloatVector a, FloatVector b) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const auto halves = [](FloatVector value) __attribute__((always_inline)) {
    return _mm256_add_ps(_mm512_castps512_ps256((__m512)value), (__m256)_mm512_extractf64x4_pd((__m512d)value, 1));
  };
  const __m256 x = halves(a), y = halves(b);
#else
  const __m256 x = (__m256)a, y = (__m256)b;
#endif
  const __m256 pairs = _mm256_add_ps(_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y));
  const __m128 quarters = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
  const __m128 sums = _mm_add_ps(quarters, _mm_movehl_ps(quarters, quarters));
  return {sums[0], sums[1]};
#else
  return {sum_of(a), sum_of(b)};
#endif
}

// The largest |value|; infinity where there is NaN or infinity.
inline double magnitude(const float* in, int64_t count) {
  // Without the sign, bits are in the order of the numbers, and NaN is above infinity.
  constexpr int32_t kInfinity = 0x7F800000;
  IntVector largest = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    const FloatVector value = some_floats(in + i, count - i);
    largest = larger((IntVector)value & 0x7FFFFFFF, largest);
  }
  const int32_t bits = largest_lane(largest);
  float result;
  memcpy(&result, &bits, sizeof(result));
  return bits < kInfinity ? result : HUGE_VAL;
}
inline double magnitude(const double* in, int64_t count) {
  double largest = 0, strange = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double value = in[i] < 0 ? -in[i] : in[i];
    largest = value > largest ? value : largest;
    strange += value - value;
  }
  return strange == 0 ? largest : HUGE_VAL;
}

// A row rounded to q = in/step: Σ(in/step − q)² as floats find it, Σq² and Σq.
struct Rounding {
  float squared_error;
  int32_t squares, sum;
};

// Writes q + offset for whole vectors, the places after `count` as for 0.
template <class F, class Real>
inline Rounding round_row(const Real* in, int64_t count, Real inverse, typename F::Element* out, int offset) {
  typedef typename F::Element ElementVector __attribute__((vector_size(kLanes * sizeof(typename F::Element))));
  constexpr float kMagic = 0x1.8p+23f;  // added and subtracted, it rounds to an integer
  FloatVector squared_error = {};
  IntVector squares = {}, sum = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    const FloatVector scaled = scaled_floats(in + i, count - i, inverse);
    const FloatVector rounded = scaled + kMagic - kMagic;
    const FloatVector difference = scaled - rounded;
    const IntVector q = __builtin_convertvector(rounded, IntVector);
    squared_error += difference * difference;
    squares += q * q;
    sum += q;
    const ElementVector stored = __builtin_convertvector(q + offset, ElementVector);
    memcpy(out + i, &stored, sizeof(stored));
  }
  return {sum_of(squared_error), sum_of(squares), sum_of(sum)};
}

// At least ‖in/step − q‖. Let L = largest_integer, p = in/step, t = float(p). |p| ≤ L up to two roundings, so that
// |t − p| ≤ 2^-24·(L + 1); t − q is exact, since |t − q| ≤ |t| and both are multiples of t's last place. Where the
// compiler contracts products and sums, p itself is rounded to q, and p − q to float: closer still. The sum of D
// squares is right up to the factor 1 ± (D + 2)·2^-24, and up to D·2^-126 for squares below the normal numbers.
template <class F>
class RoundingError {
 public:
  explicit RoundingError(int64_t dimensions)
      : factor_(1 + static_cast<double>(dimensions + 2) * 0x1p-23),
        of_scaling_(__builtin_sqrt(static_cast<double>(dimensions)) * 0x1p-24 *
                    (largest_integer(F::kFilter, dimensions) + 2)) {}

  double operator()(const Rounding& rounding) const {
    return __builtin_sqrt(rounding.squared_error * factor_) + of_scaling_;
  }

 private:
  double factor_, of_scaling_;
};

// Scales and extent of codes [first, last).
template <class Real>
Extent measure(const Search& search, double* scales, int64_t first, int64_t last) {
  const Codebooks& codebooks = search.call->codebooks;
  Extent extent;
  for (int64_t k = first; k < last; ++k) {
    const Real* code = static_cast<const Real*>(search.codebook) + k * codebooks.dimensions;
    const double largest = magnitude(code, codebooks.dimensions);
    scales[k] = -1;
    if (largest == HUGE_VAL) continue;
    const double norm = __builtin_sqrt(-score<Metric::dot>(code, code, codebooks.dimensions));
    scales[k] = search.call->metric != Metric::cosine ? 1 : norm > 0 ? 1 / norm : 0;
    extent.value = largest * scales[k] > extent.value ? largest * scales[k] : extent.value;
    extent.norm = norm * scales[k] > extent.norm ? norm * scales[k] : extent.norm;
  }
  return extent;
}

// A code as the filter sees it before rounding: itself, or in `buffer` at length 1.
template <class Real>
inline const Real* scaled_code(const PackedCodebook& packed, int64_t k, Real* buffer) {
  const int64_t dimensions = packed.search->call->codebooks.dimensions;
  const Real* code = static_cast<const Real*>(packed.search->codebook) + k * dimensions;
  if (packed.search->call->metric != Metric::cosine) return code;
  const double scale = packed.scales[k];
  for (int64_t i = 0; i < dimensions; ++i) buffer[i] = static_cast<Real>(code[i] * scale);
  return buffer;
}

// The words of one code, in `words`; its ½‖ĉ‖² is returned.
template <class F, class Real>
inline double code_words(const PackedCodebook& packed, const Real* code, typename F::Sum* words, Deviation& deviation) {
  const int64_t dimensions = packed.search->call->codebooks.dimensions;
  double half_square;
  if constexpr (F::kFilter == Filter::float32) {
    for (int64_t i = 0; i < dimensions; ++i) words[i] = static_cast<float>(code[i]);
    half_square = -score<Metric::dot>(code, code, dimensions) / 2;
  } else {
    const Rounding rounding = round_row<F>(code, dimensions, static_cast<Real>(packed.inverse_step),
                                           reinterpret_cast<typename F::Element*>(words), F::kOffset);
    const double error = RoundingError<F>(dimensions)(rounding);
    if (error > deviation.error) deviation.error = error;
    half_square = 0.5 * rounding.squares;
  }
  if (packed.search->call->metric != Metric::l2) return 0;
  if (half_square > deviation.half_square) deviation.half_square = half_square;
  return half_square;
}

template <class F, class Real>
Deviation pack_blocks(const PackedCodebook& packed, int64_t first, int64_t last) {
  const Codebooks& codebooks = packed.search->call->codebooks;
  const int64_t dimensions = codebooks.dimensions, width = packed.group * kLanes;
  const Scratch scaled(sizeof(Real) * dimensions), code(sizeof(typename F::Sum) * (packed.steps + 2 * kLanes));
  Deviation deviation;
  uint32_t* words = code.as<uint32_t>();
  for (int64_t block = first; block < last; ++block) {
    uint32_t* out = static_cast<uint32_t*>(packed.words) + block * packed.steps * width;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      for (int64_t v = 0; v < packed.group; ++v) {
        const int64_t k = (block * kLanes + lane) * packed.group + v, at = v * kLanes + lane;
        float& half_square = packed.half_squares[block * width + at];
        if (k < codebooks.codes && packed.scales[k] >= 0) {
          half_square = static_cast<float>(code_words<F>(packed, scaled_code(packed, k, scaled.as<Real>()),
                                                         reinterpret_cast<typename F::Sum*>(words), deviation));
        } else {
          memset(words, F::kOffset, sizeof(uint32_t) * packed.steps);
          half_square = HUGE_VALF;
        }
        for (int64_t step = 0; step < packed.steps; ++step) out[step * width + at] = words[step];
      }
    }
  }
  return deviation;
}

}  // namespace visgen::VISGEN_ISA
