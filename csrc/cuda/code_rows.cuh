// What the families `finite_scalar` and `binary_quantize` share on a GPU. Rows pass through shared memory, so that a
// block's accesses to memory are wide or at least neighbours while each thread works on a row.
#pragma once

#include "../ops/code_rows.h"
#include "../ops/tensors.h"
#include "tile.cuh"

namespace visgen {

// Each a thread; in shared memory, two copies of the widest rows take 63 KB.
template <class Real>
constexpr int kRowsInBlock = 512 / sizeof(Real);
constexpr int kSpan = 4;  // elements of an access

__host__ __device__ __forceinline__ int pitch(int columns) { return columns | 1; }  // rows in different banks

// Rows from `first` on into shared memory, and back; the block's threads take elements in turn.
template <bool wide, class Real>
__device__ __forceinline__ void load_rows(const CodeRows& p, const Operand& operand, int64_t first, Real* rows) {
  const int64_t begin = first * p.columns;
  for (int at = threadIdx.x * kSpan; at < kRowsInBlock<Real> * p.columns; at += blockDim.x * kSpan) {
    if (begin + at >= p.shape.elements) break;
    Real values[kSpan];
    load_tile<wide>(operand, p.shape, 0, begin + at, values);
    VISGEN_UNROLL
    for (int i = 0; i < kSpan; ++i) rows[(at + i) / p.columns * pitch(p.columns) + (at + i) % p.columns] = values[i];
  }
}

template <bool wide, class Real>
__device__ __forceinline__ void store_rows(const CodeRows& p, const Operand& operand, int64_t first, const Real* rows) {
  const int64_t begin = first * p.columns;
  for (int at = threadIdx.x * kSpan; at < kRowsInBlock<Real> * p.columns; at += blockDim.x * kSpan) {
    if (begin + at >= p.shape.elements) break;
    Real values[kSpan];
    VISGEN_UNROLL
    for (int i = 0; i < kSpan; ++i) {
      const bool exists = wide || begin + at + i < p.shape.elements;
      values[i] = exists ? rows[(at + i) / p.columns * pitch(p.columns) + (at + i) % p.columns] : Real(0);
    }
    store_tile<wide>(operand, p.shape, 0, begin + at, values);
  }
}

template <class Real>
__device__ __forceinline__ int64_t first_row() {
  return static_cast<int64_t>(blockIdx.x) * kRowsInBlock<Real>;
}

template <class Real>
__device__ __forceinline__ Real not_a_number() {
  return static_cast<Real>(cuda::bits_as<float>(0x7FC00000u));
}

// A row with NaN has code 0, and NaN for everything else.
template <class Parameters, class Real>
__device__ __forceinline__ void write_code(const Parameters& p, int64_t row, int64_t code, bool has_nan, Real* values) {
  p.codes[row] = has_nan ? 0 : code;
  for (int j = 0; has_nan && j < p.columns; ++j) values[j] = not_a_number<Real>();
}

// One thread a row, with `copies` of the rows in shared memory.
template <class Real>
LaunchShape row_grid(const CodeRows& p, int copies) {
  const int64_t blocks = (p.rows + kRowsInBlock<Real> - 1) / kRowsInBlock<Real>;
  return {dim3(static_cast<unsigned>(blocks)), dim3(kRowsInBlock<Real>),
          sizeof(Real) * copies * kRowsInBlock<Real> * pitch(p.columns)};
}

// Calls call<type of arithmetic, wide>(stream), to launch on the device of `like`.
template <class Call>
void choose_access(const CodeRows& p, const Tensor& like, std::initializer_list<const Operand*> operands, Call call) {
  const OnDevice on(like.get_device_index());
  choose_tile<kSpan>(p.in_double, p.shape, p.shape.elements, operands,
                     [&]<class Real, int, bool wide>() { call.template operator()<Real, wide>(on.stream); });
}

template <bool wide, class Decoder>
__global__ void __launch_bounds__(kRowsInBlock<double>) decode_rows(DecodedRows<Decoder> p, Decoder decoder) {
  double* rows = dynamic_shared<double>();
  const int64_t row = first_row<double>() + threadIdx.x;
  if (row < p.rows) {
    double* vector = rows + threadIdx.x * pitch(p.columns);
    int64_t rest = p.codes[row];
    for (int j = 0; j < p.columns; ++j) vector[j] = decoder.at(j, p.columns).take(rest);
    const bool is_code = decoder.is_code(rest, p.columns);
    for (int j = 0; !is_code && j < p.columns; ++j) vector[j] = not_a_number<double>();
  }
  sync_block();
  store_rows<wide>(p, p.out, first_row<double>(), rows);
}

// What a Device of these families inherits.
struct DecodesRows {
  template <class Decoder>
  static void run(const DecodedRows<Decoder>& p, const Tensor& like) {
    choose_access(p, like, {&p.out}, [&]<class, bool wide>(Stream stream) {
      launch<decode_rows<wide, Decoder>>(row_grid<double>(p, 1), stream, p, *p.decoder);
    });
  }
};

}  // namespace visgen
