// Rows of operands in the first-level cache, or where they lie.
#pragma once

#include "../../ops/operand_rows.h"
#include "rows.h"
#include "stored.h"

namespace visgen::VISGEN_ISA {

// Buffers of a row each. They begin in different sets of the cache, whatever the size of a row.
template <class Real>
class RowBuffers {
 public:
  RowBuffers(int count, int64_t columns)
      : stride_(columns + 2 * 64 / sizeof(Real)), memory_(count * stride_ * sizeof(Real)) {}
  Real* next() { return memory_.as<Real>() + taken_++ * stride_; }
  Real* next(Real value, int64_t columns) {
    Real* row = next();
    for (int64_t i = 0; i < columns; ++i) row[i] = value;
    return row;
  }

 private:
  int64_t stride_;
  int taken_ = 0;
  Scratch memory_;
};

// Which row it is, dimension by dimension, and which of its columns: all of them, or those that were taken last.
class RowPlace {
 public:
  RowPlace(const SampleShape& shape, int64_t row)
      : shape_(shape), row_(row), columns_(shape.sizes[shape.dimensions - 1]) {
    for (int d = shape.dimensions - 2; d >= 0; --d, row /= shape.sizes[d + 1]) index_[d] = row % shape.sizes[d];
  }
  void next() {
    ++row_;
    for (int d = shape_.dimensions - 2; d >= 0 && ++index_[d] == shape_.sizes[d]; --d) index_[d] = 0;
  }
  void take_columns(int64_t first, int64_t count) { first_column_ = first, columns_ = count; }
  int64_t row() const { return row_; }
  int64_t offset(const Operand& operand) const {
    int64_t offset = first_column_ * stride(operand);
    for (int d = 0; d < shape_.dimensions - 1; ++d) offset += index_[d] * operand.strides[d];
    return offset;
  }
  const SampleShape& shape() const { return shape_; }
  int64_t first_column() const { return first_column_; }
  int64_t columns() const { return columns_; }
  int64_t stride(const Operand& operand) const { return column_stride(operand, shape_); }

 private:
  const SampleShape& shape_;
  int64_t row_, first_column_ = 0, columns_, index_[kMaxDimensions] = {};
};

template <class Real>
struct RowVectorOf;
template <>
struct RowVectorOf<float> {
  typedef FloatVector Type;
};
template <>
struct RowVectorOf<double> {
  typedef DoubleVector Type;
};

// A vector to an address that is a multiple of its size, past the cache: memory need not be read to be written.
template <class Vector>
VISGEN_HOST_DEVICE void stream(void* to, Vector value) {
#if defined(__AVX512F__)
  if constexpr (sizeof(value) == 64) return _mm512_stream_si512(static_cast<__m512i*>(to), (__m512i)value);
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(value) == 32) return _mm256_stream_si256(static_cast<__m256i*>(to), (__m256i)value);
#endif
#if defined(__SSE2__)
  if constexpr (sizeof(value) == 16) return _mm_stream_si128(static_cast<__m128i*>(to), (__m128i)value);
#endif
  memcpy(to, &value, sizeof(value));
}

// Before other threads read what was streamed.
inline void finish_streams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// A row of an output.
template <class Stored>
struct OutputRow {
  Stored* row = nullptr;
  bool streams = false;

  template <class Value>
  VISGEN_HOST_DEVICE void put_at(int64_t i, Value value) const {
    if constexpr (sizeof(Value) > sizeof(double)) {
      if (streams) {
        if constexpr (sizeof(Stored) == sizeof(BFloat16Bits)) return stream(row + i, to_bfloat16(value));
        return stream(row + i, value);
      }
    }
    put(row + i, value);
  }
};

// Calls body<Value>(column) for vectors of columns, and for the numbers behind the last of them.
template <class Real, class Body>
void for_each_column(int64_t columns, Body body) {
  typedef typename RowVectorOf<Real>::Type Vector;
  constexpr int64_t kCount = sizeof(Vector) / sizeof(Real);
  int64_t i = 0;
  for (; i + kCount <= columns; i += kCount) body.template operator()<Vector>(i);
  for (; i < columns; ++i) body.template operator()<Real>(i);
}

// All numbers of a vector, or the first of them: with the same arithmetic.
struct AllLanes {
  template <class Value, class Stored>
  VISGEN_HOST_DEVICE Value take(const Stored* from) const {
    return VISGEN_ISA::take<Value>(from);
  }
  template <class Stored, class Value>
  VISGEN_HOST_DEVICE void put(const OutputRow<Stored>& to, int64_t i, Value value) const {
    to.put_at(i, value);
  }
};
struct FirstLanes {
  int64_t count;

  template <class Value, class Stored>
  VISGEN_HOST_DEVICE Value take(const Stored* from) const {
    Stored lanes[kLanes] = {};
    memcpy(lanes, from, count * sizeof(Stored));
    return VISGEN_ISA::take<Value>(lanes);
  }
  template <class Stored, class Value>
  VISGEN_HOST_DEVICE void put(const OutputRow<Stored>& to, int64_t i, Value value) const {
    Stored lanes[kLanes];
    VISGEN_ISA::put(lanes, value);
    memcpy(to.row + i, lanes, count * sizeof(Stored));
  }
};

// Calls body(lanes, first column) for vectors of columns, the last of which may be part of one.
template <class Real, class Body>
void for_each_vector(int64_t columns, Body body) {
  constexpr int64_t kCount = sizeof(Real) == 4 ? kLanes : 1;
  int64_t i = 0;
  for (; i + kCount <= columns; i += kCount) body(AllLanes{}, i);
  if (i < columns) body(FirstLanes{columns - i}, i);
}

// Calls make(column, values) for vectors and numbers as above; returns the sums of their values, of which eight to a
// lane are added up in their own type, in pairs, and the rest in double.
template <int count, class Real, class Make>
void sum_columns(int64_t columns, double (&totals)[count], Make make) {
  typedef typename RowVectorOf<Real>::Type Vector;
  constexpr int64_t kCount = sizeof(Vector) / sizeof(Real), kEach = 8;
  DoubleVector sums[count] = {};
  const auto add = [&](const Vector& part, int k) {
    Real lanes[kCount];
    memcpy(lanes, &part, sizeof(lanes));
    for (int64_t lane = 0; lane < kCount; lane += kDoubles) sums[k] += load_doubles(lanes + lane);
  };
  int64_t i = 0;
  for (; i + kEach * kCount <= columns; i += kEach * kCount) {
    Vector values[kEach][count];
    VISGEN_UNROLL
    for (int each = 0; each < kEach; ++each) make(i + each * kCount, values[each]);
    for (int k = 0; k < count; ++k) {
      VISGEN_UNROLL
      for (int each = 0; each < kEach; each += 2) values[each][k] += values[each + 1][k];
      values[0][k] = (values[0][k] + values[2][k]) + (values[4][k] + values[6][k]);
      add(values[0][k], k);
    }
  }
  for (; i + kCount <= columns; i += kCount) {
    Vector values[count];
    make(i, values);
    for (int k = 0; k < count; ++k) add(values[k], k);
  }
  for (int k = 0; k < count; ++k) totals[k] = sum_of(sums[k]);
  for (; i < columns; ++i) {
    Real values[count];
    make(i, values);
    for (int k = 0; k < count; ++k) totals[k] += values[k];
  }
}

template <class Real>
double sum_of_row(const Real* row, int64_t columns) {
  double total[1];
  sum_columns<1, Real>(columns, total,
                       [&]<class Value>(int64_t i, Value(&values)[1]) { values[0] = take<Value>(row + i); });
  return total[0];
}

// Of distances from the first number, so that it is exact for equal numbers, and close for others near each other.
template <class Real, class Stored>
double mean_of_row(const Stored* row, int64_t columns) {
  double total[1];
  const Real first = take<Real>(row);
  sum_columns<1, Real>(columns, total,
                       [&]<class Value>(int64_t i, Value(&values)[1]) { values[0] = take<Value>(row + i) - first; });
  return first + total[0] / columns;
}

template <class Real, class Stored>
double squares_about(Real centre, const Stored* row, int64_t columns) {
  double total[1];
  sum_columns<1, Real>(columns, total, [&]<class Value>(int64_t i, Value(&values)[1]) {
    const Value distance = take<Value>(row + i) - centre;
    values[0] = distance * distance;
  });
  return total[0];
}

template <class Real>
void add_row(const Real* row, int64_t columns, double* sums) {
  int64_t i = 0;
  for (; i + kDoubles <= columns; i += kDoubles) put(sums + i, load_doubles(sums + i) + load_doubles(row + i));
  for (; i < columns; ++i) sums[i] += row[i];
}

template <class Stored>
bool lies_ready(const Operand& operand, const SampleShape& shape) {
  return operand.dtype == kStoredAs<Stored> && column_stride(operand, shape) == 1;
}

template <class Stored, class... Operands>
bool all_lie_ready(const SampleShape& shape, const Operands&... rows) {
  return ((!rows.data || lies_ready<Stored>(rows, shape)) && ...);
}

// A row where it lies, or in `buffer`. Others than the arithmetic's own type must lie ready.
template <class Stored, class Real>
const Stored* load_row(const Operand& operand, const RowPlace& at, Real* buffer) {
  if (sizeof(Stored) != sizeof(Real) || lies_ready<Stored>(operand, at.shape())) {
    return static_cast<const Stored*>(operand.data) + at.offset(operand);
  }
  visit_floating(operand.dtype, [&]<class Element, DType dtype>() {
    const Element* in = static_cast<const Element*>(operand.data) + at.offset(operand);
    const int64_t stride = at.stride(operand), columns = at.columns();
    if (stride == 1) {
      decode_all<dtype>(in, columns, buffer);
    } else {
      for (int64_t i = 0; i < columns; ++i) buffer[i] = decode<Real>(in[i * stride], dtype);
    }
  });
  return reinterpret_cast<const Stored*>(buffer);
}

// Where to compute a row of an output: in its own memory, or in `buffer` for store_row to bring there.
template <class Stored, class Real>
Stored* row_for_output(const Operand& operand, const RowPlace& at, Real* buffer) {
  if (operand.data && (sizeof(Stored) != sizeof(Real) || lies_ready<Stored>(operand, at.shape()))) {
    return static_cast<Stored*>(operand.data) + at.offset(operand);
  }
  return reinterpret_cast<Stored*>(buffer);
}

// Asks for what lies `step` elements behind a row, as the row is read: memory brings the next row while this one is
// computed.
template <class Stored>
struct Ahead {
  const Stored* row;
  int64_t step;

  VISGEN_HOST_DEVICE void ask(int64_t i) const { __builtin_prefetch(row + step + i); }
};

// For the next row of an operand; where that lies elsewhere, for this one.
template <class Stored>
Ahead<Stored> ahead_of(const Stored* row, const Operand& operand, const SampleShape& shape) {
  const bool follows = operand.data && shape.dimensions > 1 && lies_ready<Stored>(operand, shape);
  return {row, follows ? operand.strides[shape.dimensions - 2] : 0};
}

// Whether rows of an output lie ready at multiples of the widest vectors' size, and are so many that the cache will not
// keep them until they are read.
template <class Stored>
bool streams_rows(const Operand& operand, const SampleShape& shape) {
  constexpr int64_t kLarge = 4 << 20;
  const int64_t bytes = sizeof(Stored), address = reinterpret_cast<int64_t>(operand.data);
  bool fits = operand.data && lies_ready<Stored>(operand, shape) && shape.elements * bytes >= kLarge;
  fits = fits && address % kVectorBytes == 0;
  for (int d = 0; d < shape.dimensions - 1; ++d) fits = fits && operand.strides[d] * bytes % kVectorBytes == 0;
  return fits;
}

template <class Real>
void store_row(const Operand& operand, const RowPlace& at, const Real* row) {
  if (!operand.data || lies_ready<Real>(operand, at.shape())) return;  // then it was made there
  visit_floating(operand.dtype, [&]<class Element, DType dtype>() {
    Element* out = static_cast<Element*>(operand.data) + at.offset(operand);
    const int64_t stride = at.stride(operand), columns = at.columns();
    if (stride == 1) {
      encode_all<dtype>(row, columns, out);
    } else {
      for (int64_t i = 0; i < columns; ++i) encode(row[i], out[i * stride], dtype);
    }
  });
}
inline void store_row(const Operand&, const RowPlace&, const BFloat16Bits*) {}  // made there

}  // namespace visgen::VISGEN_ISA
