// Rows of real numbers: sums in double, conversions from and to the types of tensors.
#pragma once

#include "scratch.h"
#include "tile.h"

namespace visgen::VISGEN_ISA {

template <class Real>
struct RealVectorOf;
template <>
struct RealVectorOf<double> {
  typedef DoubleVector Type;
};
template <>
struct RealVectorOf<float> {
  typedef float Type __attribute__((vector_size(kVectorBytes / 2)));
};

VISGEN_HOST_DEVICE DoubleVector to_doubles(DoubleVector value) { return value; }
VISGEN_HOST_DEVICE DoubleVector to_doubles(RealVectorOf<float>::Type value) {
#if defined(__AVX512F__)  // gcc 12 converts halves with __builtin_convertvector
  return (DoubleVector)_mm512_cvtps_pd((__m256)value);
#elif defined(__AVX2__)
  return (DoubleVector)_mm256_cvtps_pd((__m128)value);
#else
  return __builtin_convertvector(value, DoubleVector);
#endif
}

template <class Real>
VISGEN_HOST_DEVICE DoubleVector load_doubles(const Real* in) {
  typename RealVectorOf<Real>::Type value;
  memcpy(&value, in, sizeof(value));
  return to_doubles(value);
}

VISGEN_HOST_DEVICE DoubleVector multiply_add(DoubleVector a, DoubleVector b, DoubleVector c) {
#if defined(__AVX512F__)
  return (DoubleVector)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
  return (DoubleVector)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

VISGEN_HOST_DEVICE double sum_of(DoubleVector value) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_pd((__m512d)value);
#endif
  double total = 0;
  for (int lane = 0; lane < kDoubles; ++lane) total += value[lane];
  return total;
}

template <class Real>
inline bool all_finite(const Real* in, int64_t count) {
  constexpr Real kLargest = sizeof(Real) == 4 ? Real(3.40282347e38f) : Real(1.7976931348623157e308);
  int others = 0;
  for (int64_t i = 0; i < count; ++i) others |= !(in[i] <= kLargest && in[i] >= -kLargest);
  return others == 0;
}

// Row `row` of a tensor as real numbers: where it lies, or in `buffer`.
template <class Real>
inline const Real* real_row(const void* data, DType dtype, int64_t row, int64_t dimensions, Real* buffer) {
  if (dtype == kArithmetic<Real>) return static_cast<const Real*>(data) + row * dimensions;
  visit_floating(dtype, [&]<class Stored, DType type>() {
    const Stored* in = static_cast<const Stored*>(data) + row * dimensions;
    decode_all<type>(in, dimensions, buffer);
  });
  return buffer;
}

template <class Real>
inline void store_row(const Real* in, void* data, DType dtype, int64_t row, int64_t dimensions) {
  visit_floating(dtype, [&]<class Stored, DType type>() {
    Stored* out = static_cast<Stored*>(data) + row * dimensions;
    encode_all<type>(in, dimensions, out);
  });
}

}  // namespace visgen::VISGEN_ISA
