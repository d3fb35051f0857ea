// The arithmetic that every device must agree on: words to uniform and normal numbers, pixels, 16-bit floats, and the
// exponential, the logarithm and the hyperbolic tangent.
//
// Written once for scalars, vectors (GNU vector extensions) and CUDA threads: `Lanes<Word>` says which float and
// integer types go with a lane of 32-bit words, and supplies the few operations that have no operator.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "isa.h"

namespace visgen::VISGEN_ISA {

template <class To, class From>
VISGEN_HOST_DEVICE To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

template <class Word>
struct Lanes;

template <>
struct Lanes<uint32_t> {
  using Int = int32_t;
  using Float = float;
  static VISGEN_HOST_DEVICE float from_unsigned(uint32_t value) { return static_cast<float>(value); }
  static VISGEN_HOST_DEVICE float from_signed(int32_t value) { return static_cast<float>(value); }
  static VISGEN_HOST_DEVICE bool is_set(uint32_t word, uint32_t bit);
  static VISGEN_HOST_DEVICE float less_twice(float a, float b);  // a − 2b
  static VISGEN_HOST_DEVICE float sqrt(float value);             // of 0, or of a number in [2⁻¹⁰⁰, 2¹⁰⁰]
};

#if defined(__CUDA_ARCH__)
// The same bits in fewer instructions than nvcc makes of the operators: it shifts a bit down before it compares,
// doubles before it subtracts, and branches for roots of numbers that don't come.
VISGEN_HOST_DEVICE bool Lanes<uint32_t>::is_set(uint32_t word, uint32_t bit) {
  uint32_t left;
  asm("and.b32 %0, %1, %2;" : "=r"(left) : "r"(word), "r"(bit));
  return left != 0u;
}

VISGEN_HOST_DEVICE float Lanes<uint32_t>::less_twice(float a, float b) { return fmaf(-2.0f, b, a); }

VISGEN_HOST_DEVICE float Lanes<uint32_t>::sqrt(float value) {
  float inverse;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(fmaxf(value, 0x1p-100f)));
  const float root = value * inverse;
  return fmaf(fmaf(-root, root, value), 0.5f * inverse, root);
}
#else
VISGEN_HOST_DEVICE bool Lanes<uint32_t>::is_set(uint32_t word, uint32_t bit) { return (word & bit) != 0u; }
VISGEN_HOST_DEVICE float Lanes<uint32_t>::less_twice(float a, float b) { return a - 2.0f * b; }
VISGEN_HOST_DEVICE float Lanes<uint32_t>::sqrt(float value) { return sqrtf(value); }
#endif

template <class Float>
struct WordOfFloat;

template <>
struct WordOfFloat<float> {
  using Word = uint32_t;
};

// −2·ln(u) for u = (word + 1)·2⁻³². Near u = 1 the distance to 1 is taken from the integer, so that small radii keep
// their relative precision: that is what "from all 32 bits" means.
template <class Word>
VISGEN_HOST_DEVICE typename Lanes<Word>::Float squared_radius(Word word) {
  using Int = typename Lanes<Word>::Int;
  using Float = typename Lanes<Word>::Float;
  const Word numerator = word + 1u;
  const auto near_one = word >= 0xB504F334u;  // u ≥ √½
  // numerator = 2^exponent · (1 + f) with 1 + f in [√½, √2); near one, numerator − 2³² is what the signed integer says
  const Int bits = bits_as<Int>(Lanes<Word>::from_unsigned(numerator));
  const Int exponent = (bits - 0x3F3504F3) & ~0x7FFFFF;  // in units of 2²³
  const Float distance = Lanes<Word>::from_signed(bits_as<Int>(numerator)) * 0x1p-32f;
  const Float f = near_one ? distance : bits_as<Float>(bits - exponent) - 1.0f;
  const Float halvings =
      Lanes<Word>::from_signed(exponent) * -0x1.62e43p-23f + 0x1.62e43p+5f;  // (32 − exponent)·2·ln 2
  const Float high = near_one ? Float{} : halvings;
  // −2·ln(1 + f) = −2f + f²·(1 + f·Q(f)), Q the polynomial whose largest error, 1.4e-8, is smallest
  Float q = -1.734437048e-1f * f + 2.875801325e-1f;
  q = q * f - 2.995598614e-1f;
  q = q * f + 3.312885165e-1f;
  q = q * f - 3.990975022e-1f;
  q = q * f + 5.000339746e-1f;
  q = q * f - 6.666833162e-1f;
  return (f * f) * (q * f + 1.0f) + Lanes<Word>::less_twice(high, f);
}

// Box–Muller: two words to two independent standard normal numbers r·cos(2π·v), r·sin(2π·v), v = word_1·2⁻³².
template <class Word>
VISGEN_HOST_DEVICE void normal_pair(Word word_0, Word word_1, typename Lanes<Word>::Float& first,
                                    typename Lanes<Word>::Float& second) {
  using Int = typename Lanes<Word>::Int;
  using Float = typename Lanes<Word>::Float;
  const Float radius = Lanes<Word>::sqrt(squared_radius(word_0));
  // The nearest quarter turn is split off exactly, in the two upper bits of `turn`; what is left lies in ±π/4: the
  // lower 30 bits of the word as a signed number, here in the upper ones.
  const Word turn = word_1 + 0x20000000u;
  const Float x = Lanes<Word>::from_signed(bits_as<Int>(word_1 << 2)) * 3.6572951981678992e-10f;
  const Float square = x * x;
  Float sine = -1.9515295891e-4f * square + 8.3321608736e-3f;
  sine = sine * square - 1.6666654611e-1f;
  sine = (sine * square) * x + x;
  Float cosine = 2.443315711809948e-5f * square - 1.388731625493765e-3f;
  cosine = cosine * square + 4.166664568298827e-2f;
  cosine = cosine * square - 0.5f;
  cosine = cosine * square + 1.0f;
  const auto odd = Lanes<Word>::is_set(turn, 0x40000000u);
  first = radius * bits_as<Float>(bits_as<Word>(odd ? sine : cosine) ^ ((turn + 0x40000000u) & 0x80000000u));
  second = radius * bits_as<Float>(bits_as<Word>(odd ? cosine : sine) ^ (turn & 0x80000000u));
}

// The same in float64, for float64 pictures and gradient checks.
VISGEN_HOST_DEVICE void normal_pair(uint32_t word_0, uint32_t word_1, double& first, double& second) {
  const double radius = ::sqrt(-2.0 * ::log((word_0 + 1.0) * 0x1p-32));
  const double angle = word_1 * (6.283185307179586476925 * 0x1p-32);
  first = radius * ::cos(angle);
  second = radius * ::sin(angle);
}

// (word + 1)·2⁻³² in (0, 1], correctly rounded.
VISGEN_HOST_DEVICE float uniform_float(uint32_t word) {
  return word == 0xFFFFFFFFu ? 1.0f : static_cast<float>(word + 1u) * 0x1p-32f;
}
VISGEN_HOST_DEVICE double uniform_double(uint32_t word) { return (word + 1.0) * 0x1p-32; }

// A pixel 0…255 to −1…1, correctly rounded: 2·pixel − 255 is exact, and in float one correction step makes the division
// by 255 so.
template <class Real>
VISGEN_HOST_DEVICE Real pixel_to_unit(uint8_t pixel) {
  const Real numerator = Real(2) * pixel - Real(255);
  if constexpr (sizeof(Real) == 8) return numerator / Real(255);
  const Real quotient = numerator * (Real(1) / Real(255));
  return quotient + (numerator - Real(255) * quotient) * (Real(1) / Real(255));
}

VISGEN_HOST_DEVICE float bfloat16_to_float(uint16_t value) {
  return bits_as<float>(static_cast<uint32_t>(value) << 16);
}

VISGEN_HOST_DEVICE uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = bits_as<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
}

#if defined(__aarch64__) && !defined(__CUDACC__)
VISGEN_HOST_DEVICE float half_to_float(uint16_t value) { return static_cast<float>(bits_as<__fp16>(value)); }

VISGEN_HOST_DEVICE uint16_t float_to_half(float value) {
  const uint16_t not_a_number = 0x7E00u | ((bits_as<uint32_t>(value) >> 16) & 0x8000u);
  return value != value ? not_a_number : bits_as<uint16_t>(static_cast<__fp16>(value));
}
#else
VISGEN_HOST_DEVICE float half_to_float(uint16_t value) {
  const uint32_t magnitude = value & 0x7FFFu, sign = static_cast<uint32_t>(value & 0x8000u) << 16;
  const uint32_t bias = 112u << 23;  // 127 − 15
  const uint32_t shifted = (magnitude << 13) + bias + (magnitude >= 0x7C00u ? bias : 0u);
  const uint32_t subnormal = bits_as<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  return bits_as<float>((magnitude < 0x400u ? subnormal : shifted) | sign);
}

VISGEN_HOST_DEVICE uint16_t float_to_half(float value) {
  const uint32_t bits = bits_as<uint32_t>(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  // Adding ½ puts a subnormal's last place at the float's own, so that the addition rounds it.
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3F000000u;
  const uint32_t normal = (magnitude + 0xFFFu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
  uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
  result = magnitude >= 0x477FF000u ? 0x7C00u : result;
  result = magnitude > 0x7F800000u ? 0x7E00u : result;
  return static_cast<uint16_t>(result | sign);
}
#endif

// e^x to 1 unit in the last place, below which it underflows gradually; x up to 88. Polynomials here and below are
// those whose largest relative error is smallest, 4.4e-9 or less.
template <class Float>
VISGEN_HOST_DEVICE Float exponential(Float x) {
  using Word = typename WordOfFloat<Float>::Word;
  using Int = typename Lanes<Word>::Int;
  x = x < -104.0f ? Float{} - 104.0f : x;
  const Float shifted = x * 1.44269504f + 12582912.0f;  // the last bits of the mantissa are x / ln 2, rounded
  const Int exponent = bits_as<Int>(shifted) - 0x4B400000, half = exponent >> 1;
  const Float count = shifted - 12582912.0f;
  const Float rest = (x - count * 0.693359375f) + count * 2.12194440e-4f;  // ln 2 in two parts, the first product exact
  Float p = 1.381419079e-3f * rest + 8.368913687e-3f;
  p = p * rest + 4.166840719e-2f;
  p = p * rest + 1.666651901e-1f;
  p = p * rest + 4.999999334e-1f;
  p = (p * rest) * rest + rest + 1.0f;
  // 2^exponent in two factors, since neither it nor the result need be a normal number
  return p * bits_as<Float>((half + 127) << 23) * bits_as<Float>((exponent - half + 127) << 23);
}

// ln(1 + y) for y in [0, 1], to 2 units in the last place: 2·artanh(s), s = y / (2 + y).
template <class Float>
VISGEN_HOST_DEVICE Float logarithm_of_one_plus(Float y) {
  const Float s = y / (y + 2.0f), square = s * s;
  Float p = 2.801198687e-1f * square + 2.800180526e-1f;
  p = p * square + 4.002152724e-1f;
  p = p * square + 6.666641629e-1f;
  return (p * square) * s + (s + s);
}

// tanh x, to 2 units in the last place.
template <class Float>
VISGEN_HOST_DEVICE Float hyperbolic_tangent(Float x) {
  const Float magnitude = x < 0.0f ? -x : x, square = x * x;
  Float p = -5.704986926e-3f * square + 2.063908716e-2f;
  p = p * square - 5.373971505e-2f;
  p = p * square + 1.333144220e-1f;
  p = p * square - 3.333328194e-1f;
  const Float near_zero = (p * square) * x + x;
  const Float tail = 2.0f / (exponential(magnitude > 10.0f ? Float{} + 20.0f : magnitude + magnitude) + 1.0f);
  const Float far = x < 0.0f ? tail - 1.0f : 1.0f - tail;
  return magnitude < 0.625f ? near_zero : far;
}

// A power of two that brings numbers up to `largest` to where their squares neither overflow nor vanish.
VISGEN_HOST_DEVICE double squarable(double largest) {
  return largest > 0x1p+500 ? 0x1p-600 : largest < 0x1p-500 ? 0x1p+600 : 1.0;
}

// sum += term; `lost` carries what rounding took from the sum so far, so that many terms cost one rounding (Kahan).
template <class Float>
VISGEN_HOST_DEVICE void add_compensated(Float term, Float& sum, Float& lost) {
  const Float corrected = term - lost, next = sum + corrected;
  lost = (next - sum) - corrected;
  sum = next;
}

// The exponential, the logarithm and the hyperbolic tangent in float64, by the system's library.
VISGEN_HOST_DEVICE double exponential(double x) { return ::exp(x); }
VISGEN_HOST_DEVICE double logarithm_of_one_plus(double y) { return ::log1p(y); }
VISGEN_HOST_DEVICE double hyperbolic_tangent(double x) { return ::tanh(x); }

}  // namespace visgen::VISGEN_ISA
