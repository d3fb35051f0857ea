// Vectors of consecutive elements, or single ones, from memory and back. bfloat16, a network's usual type, is known by
// a type of its own and never leaves registers.
#pragma once

#include "elements.h"
#include "simd.h"

namespace visgen::VISGEN_ISA {

struct BFloat16Bits {
  uint16_t bits;
};

template <class Stored>
constexpr DType kStoredAs = kArithmetic<Stored>;
template <>
constexpr DType kStoredAs<BFloat16Bits> = DType::bfloat16;

template <class Value>
constexpr bool kIsDouble = false;
template <>
constexpr bool kIsDouble<double> = true;

// A vector of consecutive elements, or one; a double of any.
template <class Value, class Stored>
VISGEN_HOST_DEVICE Value take(const Stored* from) {
  if constexpr (kIsDouble<Value>) return *from;
  Value value;
  memcpy(&value, from, sizeof(value));
  return value;
}
template <class Value>
VISGEN_HOST_DEVICE Value take(const BFloat16Bits* from) {
  if constexpr (sizeof(Value) <= sizeof(double)) {
    return bfloat16_to_float(from->bits);
  } else {
    return (FloatVector)(widen(take<ShortVector>(&from->bits)) << 16);
  }
}

// The instruction takes subnormal numbers for 0 and keeps bits of NaN: they go the longer way.
VISGEN_HOST_DEVICE ShortVector to_bfloat16(FloatVector value) {
#if defined(__AVX512BF16__)
  constexpr int kQuietNan = 0x01, kSubnormal = 0x20, kSignalingNan = 0x80;
  if (__builtin_expect(!_mm512_fpclass_ps_mask((__m512)value, kQuietNan | kSubnormal | kSignalingNan), 1)) {
    return (ShortVector)_mm512_cvtneps_pbh((__m512)value);
  }
#endif
  const WordVector bits = (WordVector)value, rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const WordVector is_nan = (WordVector)((IntVector)(bits & 0x7FFFFFFFu) > 0x7F800000);
  return narrow((is_nan & 0x7FC0u) | (~is_nan & rounded));
}

template <class Value, class Stored>
VISGEN_HOST_DEVICE void put(Stored* to, Value value) {
  memcpy(to, &value, sizeof(value));
}
VISGEN_HOST_DEVICE void put(BFloat16Bits* to, float value) { to->bits = float_to_bfloat16(value); }
VISGEN_HOST_DEVICE void put(BFloat16Bits* to, FloatVector value) { put(&to->bits, to_bfloat16(value)); }

// Elements that follow one another, to and from the arithmetic's type: by instructions where compilers don't find them.
template <DType dtype, class Stored, class Real>
VISGEN_HOST_DEVICE void decode_all(const Stored* in, int64_t count, Real* out) {
  int64_t i = 0;
#if defined(__aarch64__)
  if constexpr (dtype == DType::float16 && sizeof(Real) == 4) {
    for (; i + kLanes <= count; i += kLanes) vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(in + i))));
  }
#endif
  for (; i < count; ++i) out[i] = decode<Real>(in[i], dtype);
}

template <DType dtype, class Stored, class Real>
VISGEN_HOST_DEVICE void encode_all(const Real* in, int64_t count, Stored* out) {
  int64_t i = 0;
#if defined(__AVX512BF16__)
  if constexpr (dtype == DType::bfloat16 && sizeof(Real) == 4) {
    for (; i + kLanes <= count; i += kLanes) put(out + i, to_bfloat16(take<FloatVector>(in + i)));
  }
#elif defined(__aarch64__)
  if constexpr (dtype == DType::float16 && sizeof(Real) == 4) {
    for (; i + kLanes <= count; i += kLanes) {
      const float32x4_t value = vld1q_f32(in + i);
      const uint16x4_t sign = vand_u16(vshrn_n_u32(vreinterpretq_u32_f32(value), 16), vdup_n_u16(0x8000));
      const uint16x4_t rounded = vreinterpret_u16_f16(vcvt_f16_f32(value)),
                       is_number = vmovn_u32(vceqq_f32(value, value));
      vst1_u16(out + i, vbsl_u16(is_number, rounded, vorr_u16(sign, vdup_n_u16(0x7E00))));
    }
  }
#endif
  for (; i < count; ++i) encode(in[i], out[i], dtype);
}

}  // namespace visgen::VISGEN_ISA
