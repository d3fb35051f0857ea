// Rows of real numbers: exact scores of codes, residuals, conversions from and to the types of tensors.
#pragma once

#include <cstdlib>

#include "../../ops/quantize.h"
#include "../kernels.h"
#include "../search.h"
#include "tile.h"

namespace visgen::VISGEN_ISA {

constexpr int kDoubles = kVectorBytes / 8;
typedef double DoubleVector __attribute__((vector_size(kVectorBytes)));

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

// What the nearest code has least of: Σ(r − e)², −Σr·e or −Σr·e / ‖e‖, in double.
template <Metric metric, class Real>
inline double score(const Real* r, const Real* e, int64_t count) {
  DoubleVector sum[2] = {}, square[2] = {};
  const auto add = [&](DoubleVector left, DoubleVector right, int j) __attribute__((always_inline)) {
    if (metric == Metric::l2) left = right = left - right;
    sum[j] = multiply_add(left, right, sum[j]);
  };
  int64_t i = 0;
  for (; i + 2 * kDoubles <= count; i += 2 * kDoubles) {
    for (int j = 0; j < 2; ++j) {
      const DoubleVector code = load_doubles(e + i + j * kDoubles);
      add(load_doubles(r + i + j * kDoubles), code, j);
      if (metric == Metric::cosine) square[j] = multiply_add(code, code, square[j]);
    }
  }
  for (; i + kDoubles <= count; i += kDoubles) {
    const DoubleVector code = load_doubles(e + i);
    add(load_doubles(r + i), code, 0);
    if (metric == Metric::cosine) square[0] = multiply_add(code, code, square[0]);
  }
  double total = sum_of(sum[0] + sum[1]), norm = sum_of(square[0] + square[1]);
  for (; i < count; ++i) {
    const double left = r[i], right = e[i];
    total += metric == Metric::l2 ? (left - right) * (left - right) : left * right;
    if (metric == Metric::cosine) norm += right * right;
  }
  if (metric == Metric::l2) return total;
  if (metric == Metric::dot) return -total;
  return norm > 0 ? -total / __builtin_sqrt(norm) : 0;
}

template <class Real>
inline bool all_finite(const Real* in, int64_t count) {
  constexpr Real kLargest = sizeof(Real) == 4 ? Real(3.40282347e38f) : Real(1.7976931348623157e308);
  int others = 0;
  for (int64_t i = 0; i < count; ++i) others |= !(in[i] <= kLargest && in[i] >= -kLargest);
  return others == 0;
}

// The best code so far; among equals the first. A code with NaN or infinity is never taken.
struct Nearest {
  double score = 0;
  int64_t code = -1;

  template <class Real>
  VISGEN_HOST_DEVICE void consider(double other, int64_t index, const Real* e, int64_t count) {
    if (better(other, index) && all_finite(e, count)) score = other, code = index;
  }

  VISGEN_HOST_DEVICE bool better(double other, int64_t index) const {
    return code < 0 ? other == other : other < score || (other == score && index < code);
  }
};

template <Metric metric, class Real>
inline void consider_codes(Nearest& nearest, const Real* r, const Real* codebook, int64_t first, int64_t last,
                           int64_t dimensions) {
  for (int64_t k = first; k < last; ++k) {
    const Real* e = codebook + k * dimensions;
    nearest.consider(score<metric>(r, e, dimensions), k, e, dimensions);
  }
}

// Row `row` of a tensor as real numbers: where it lies, or in `buffer`.
template <class Real>
inline const Real* real_row(const void* data, DType dtype, int64_t row, int64_t dimensions, Real* buffer) {
  if (dtype == kArithmetic<Real>) return static_cast<const Real*>(data) + row * dimensions;
  const uint16_t* in = static_cast<const uint16_t*>(data) + row * dimensions;
  if (dtype == DType::bfloat16) {
    for (int64_t i = 0; i < dimensions; ++i) buffer[i] = decode<Real>(in[i], DType::bfloat16);
  } else {
    for (int64_t i = 0; i < dimensions; ++i) buffer[i] = decode<Real>(in[i], DType::float16);
  }
  return buffer;
}

template <class Real>
inline void store_row(const Real* in, void* data, DType dtype, int64_t row, int64_t dimensions) {
  if (dtype == kArithmetic<Real>) {
    memcpy(static_cast<Real*>(data) + row * dimensions, in, sizeof(Real) * dimensions);
    return;
  }
  uint16_t* out = static_cast<uint16_t*>(data) + row * dimensions;
  if (dtype == DType::bfloat16) {
    for (int64_t i = 0; i < dimensions; ++i) encode(in[i], out[i], DType::bfloat16);
  } else {
    for (int64_t i = 0; i < dimensions; ++i) encode(in[i], out[i], DType::float16);
  }
}

// after ← real(r − e), in place where after is r or absent where it is null; returns Σ after².
template <class Real>
inline double subtract(const Real* r, const Real* e, Real* after, int64_t count) {
  typedef typename RealVectorOf<Real>::Type RealVector;
  DoubleVector sum[2] = {};
  int64_t i = 0, j = 0;
  for (; i + kDoubles <= count; i += kDoubles, j ^= 1) {
    RealVector left, right;
    memcpy(&left, r + i, sizeof(left));
    memcpy(&right, e + i, sizeof(right));
    left -= right;
    if (after) memcpy(after + i, &left, sizeof(left));
    const DoubleVector exact = to_doubles(left);
    sum[j] = multiply_add(exact, exact, sum[j]);
  }
  double total = sum_of(sum[0] + sum[1]);
  for (; i < count; ++i) {
    const Real difference = r[i] - e[i];
    if (after) after[i] = difference;
    total += static_cast<double>(difference) * difference;
  }
  return total;
}

inline bool active(const QuantizeParameters& call, int64_t row, int64_t depth) {
  return !call.active_depths || depth < call.active_depths[row];
}

// A row's residual at this depth: x at the first one.
template <class Real>
inline const Real* residual(const Search& search, int64_t row, Real* buffer) {
  const QuantizeParameters& call = *search.call;
  const int64_t dimensions = call.codebooks.dimensions;
  if (search.depth > 0) return static_cast<const Real*>(search.residuals) + row * dimensions;
  return real_row(call.x, call.dtype, row, dimensions, buffer);
}

// Writes what a row's code at this depth decides: the code, both errors, and the residual of the next depth.
template <class Real>
inline void finish_row(const Search& search, int64_t row, const Real* r, int64_t code, bool finite) {
  const QuantizeParameters& call = *search.call;
  const int64_t dimensions = call.codebooks.dimensions, at = row * call.depth + search.depth;
  call.codes[at] = code;
  if (!call.commitment) return;
  Real* after = search.depth + 1 < call.depth ? static_cast<Real*>(search.residuals) + row * dimensions : nullptr;
  const Real* e = static_cast<const Real*>(search.codebook) + code * dimensions;
  const double sum = subtract(r, e, after, dimensions);
  if (!finite) search.broken[row] = 1;
  const Real mean = finite ? static_cast<Real>(sum / static_cast<double>(dimensions)) : static_cast<Real>(NAN);
  static_cast<Real*>(call.commitment)[at] = static_cast<Real*>(call.codebook_error)[at] = mean;
}

template <class Real>
inline void skip_row(const Search& search, int64_t row) {
  const QuantizeParameters& call = *search.call;
  const int64_t at = row * call.depth + search.depth;
  call.codes[at] = -1;
  if (call.commitment) static_cast<Real*>(call.commitment)[at] = static_cast<Real*>(call.codebook_error)[at] = 0;
}

// Memory of one kernel call, aligned to the widest vectors.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : data_(aligned_alloc(64, (bytes + 127) / 64 * 64)) {
    if (!data_) no_memory_for(bytes);
  }
  ~Scratch() { free(data_); }
  Scratch(const Scratch&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
};

}  // namespace visgen::VISGEN_ISA
