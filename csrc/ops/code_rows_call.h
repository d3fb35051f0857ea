// Calls of the families `finite_scalar` and `binary_quantize`: the checks, layouts and outputs that they share.
#pragma once

#include "../common/registration.h"
#include "code_rows.h"
#include "tensors.h"

namespace visgen {

constexpr int64_t kRowsInUnit = 2048;

inline std::vector<int64_t> sizes_of(const Tensor& tensor) {
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < tensor.dim(); ++d) sizes.push_back(tensor.size(d));
  return sizes;
}

// The rows of x, and what else has its shape: `other` and `grad_x`, both optional.
inline void set_rows(CodeRows& p, const Tensor& x, const OptionalTensor& other, const OptionalTensor& grad_x,
                     int64_t rows_in_unit) {
  Batch batch(x, Batch::kOneSample);
  batch.add(x, p.x, "x");
  batch.add(other, p.quantized, "quantized");
  batch.add(grad_x, p.grad_x, "grad_x");
  STD_TORCH_CHECK(x.size(-1) >= 1 && x.size(-1) <= kMaxColumns, "x must have 1 to ", kMaxColumns, " columns");
  STD_TORCH_CHECK(p.x.dtype != DType::uint8, "x must have a floating-point type");
  p.in_double = p.x.dtype == DType::float64;
  p.columns = static_cast<int>(x.size(-1));
  p.rows = x.numel() / p.columns;
  p.shape = batch.merge();
  p.partition = Partition(1, x.numel(), x.numel(), rows_in_unit * p.columns);
}

// The vectors that codes stand for.
inline Tensor set_decoded(CodeRows& p, const Tensor& codes, int64_t columns, ScalarType dtype, int64_t rows_in_unit) {
  STD_TORCH_CHECK(codes.scalar_type() == ScalarType::Long && codes.is_contiguous(),
                  "codes must be a contiguous int64 tensor");
  STD_TORCH_CHECK(columns >= 1 && columns <= kMaxColumns, "codes must stand for 1 to ", kMaxColumns, " columns");
  std::vector<int64_t> sizes = sizes_of(codes);
  sizes.push_back(columns);
  Tensor result = empty_on(codes, sizes, dtype);
  set_rows(p, result, result, std::nullopt, rows_in_unit);
  p.codes = const_cast<int64_t*>(codes.const_data_ptr<int64_t>());
  return result;
}

inline Tensor codes_of(const Tensor& x, CodeRows& p) {
  std::vector<int64_t> sizes = sizes_of(x);
  sizes.pop_back();
  Tensor codes = empty_on(x, sizes, ScalarType::Long);
  p.codes = codes.mutable_data_ptr<int64_t>();
  return codes;
}

}  // namespace visgen
