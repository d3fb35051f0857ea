// Elements of tensors, to and from the arithmetic's type. 16-bit floats are known by their bits and their DType.
#pragma once

#include "../../common/dtype.h"
#include "../../common/math.h"

namespace visgen::VISGEN_ISA {

template <class Real>
constexpr DType kArithmetic = sizeof(Real) == 4 ? DType::float32 : DType::float64;

// Calls call<what an element is stored as, DType>(): here and nowhere else kernels look at an element type.
template <class Call>
VISGEN_HOST_DEVICE void visit_floating(DType dtype, Call call) {
  switch (dtype) {
    case DType::uint8:
      return;
    case DType::float16:
      return call.template operator()<uint16_t, DType::float16>();
    case DType::bfloat16:
      return call.template operator()<uint16_t, DType::bfloat16>();
    case DType::float32:
      return call.template operator()<float, DType::float32>();
    case DType::float64:
      return call.template operator()<double, DType::float64>();
  }
}

// The same for pixels, too.
template <class Call>
VISGEN_HOST_DEVICE void visit(DType dtype, Call call) {
  if (dtype == DType::uint8) return call.template operator()<uint8_t, DType::uint8>();
  visit_floating(dtype, call);
}

template <class Real>
inline Real decode(uint8_t value, DType) {
  return pixel_to_unit<Real>(value);
}
template <class Real>
inline Real decode(uint16_t value, DType dtype) {
  return dtype == DType::bfloat16 ? bfloat16_to_float(value) : half_to_float(value);
}
template <class Real, class Stored>
inline Real decode(Stored value, DType) {
  return static_cast<Real>(value);
}

template <class Real>
inline void encode(Real value, uint16_t& out, DType dtype) {
  const float rounded = static_cast<float>(value);
  out = dtype == DType::bfloat16 ? float_to_bfloat16(rounded) : float_to_half(rounded);
}
template <class Real, class Stored>
inline void encode(Real value, Stored& out, DType) {
  out = static_cast<Stored>(value);
}

}  // namespace visgen::VISGEN_ISA
