// Calls of the families `finite_scalar` and `binary_quantize`: the checks, layouts and outputs that they share.
#pragma once

#include "../common/registration.h"
#include "code_rows.h"
#include "tensors.h"

namespace visgen {

constexpr int64_t kRowsInUnit = 2048;

inline void check_columns(const Tensor& x) {
  check(x.dim() >= 1 && x.size(-1) >= 1 && x.size(-1) <= kMaxColumns, "x must have 1 to ", kMaxColumns, " columns");
  floating_dtype_of(x.scalar_type(), "x");
}

// The rows of x, and where the operands are, which have its shape.
inline void set_rows(CodeRows& p, const Tensor& x, std::initializer_list<Argument> operands,
                     int64_t rows_in_unit = kRowsInUnit) {
  p.in_double = is_double(x);
  p.columns = static_cast<int>(x.size(-1));
  p.rows = x.numel() / p.columns;
  p.shape = Batch(x, Kind::one_sample, operands).merge();
  p.partition = Partition(1, p.shape.elements, p.shape.elements, rows_in_unit * p.columns);
}

template <class Device, class Parameters>
void run_rows(Parameters& p, const Tensor& x, std::initializer_list<Argument> operands) {
  set_rows(p, x, operands);
  if (p.rows > 0) Device::run(p, x);
}

// The sizes of x without its columns.
inline Sizes sizes_of_rows(const Tensor& x) {
  Sizes sizes = sizes_of(x);
  sizes.pop_back();
  return sizes;
}

// The vectors [..., columns] that codes stand for.
template <class Device, class Parameters, class Decoder>
Tensor decoded(const Decoder& decoder, const Tensor& codes, int64_t columns, ScalarType dtype) {
  Parameters p;
  p.decoder = &decoder;
  check(columns >= 1 && columns <= kMaxColumns, "codes must stand for 1 to ", kMaxColumns, " columns");
  floating_dtype_of(dtype, "dtype");
  Sizes sizes = sizes_of(codes);
  p.codes = data_of<const int64_t>(codes, codes, sizes, ScalarType::Long, "codes");
  sizes.push_back(columns);
  Tensor out = empty_on(codes, sizes, dtype);
  run_rows<Device>(p, out, {{out, p.out, "codes"}});
  return out;
}

}  // namespace visgen
