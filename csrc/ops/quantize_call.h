// Calls of the family `quantize`.
#pragma once

#include "../common/registration.h"
#include "codebook.h"
#include "quantize.h"
#include "tensors.h"

namespace visgen {

constexpr int64_t kMostCodes = (int64_t{1} << 31) - 1;  // of a codebook
constexpr int64_t kMostDepths = 65535;

inline Codebooks codebooks_of(const Tensor& codebooks, const Tensor& like, ScalarType real, int64_t dimensions,
                              int64_t depth) {
  check(codebooks.dim() == 3, "codebooks must be [depth or 1, codes, dimensions]");
  const int64_t books = codebooks.size(0), codes = codebooks.size(1);
  check(books == 1 || books >= depth, "codebooks must be one, or one for each depth");
  check(codes >= 1 && codes <= kMostCodes, "codebooks must have 1 to ", kMostCodes, " codes");
  const void* data = data_of(codebooks, like, {books, codes, dimensions}, real, "codebooks");
  return {data, codes, dimensions, books > 1 ? codes * dimensions : 0};
}

template <class Parameters>
void set_rows(Parameters& p, const Tensor& x, const Tensor& codebooks, int64_t depth) {
  check(x.dim() == 2 && x.is_contiguous(), "x must be a contiguous [rows, dimensions] tensor");
  check(depth >= 0 && depth <= kMostDepths, "depth must lie in [0, ", kMostDepths, "]");
  p.dtype = floating_dtype_of(x.scalar_type(), "x");
  p.in_double = is_double(x);
  p.x = x.const_data_ptr();
  p.rows = x.size(0);
  p.depth = depth;
  p.codebooks = codebooks_of(codebooks, x, real_of(x), x.size(1), depth);
}

inline const int64_t* codes_of(const Tensor& codes, const Tensor& like, int64_t rows) {
  check(codes.dim() == 2, "codes must be [rows, depth]");
  return data_of<const int64_t>(codes, like, {rows, codes.size(1)}, ScalarType::Long, "codes");
}

template <class Parameters>
void set_rows_and_codes(Parameters& p, const Tensor& x, const Tensor& codes, const Tensor& codebooks) {
  check(codes.dim() == 2, "codes must be [rows, depth]");
  set_rows(p, x, codebooks, codes.size(1));
  p.codes = codes_of(codes, x, p.rows);
}

inline Metric metric_of(int64_t metric) {
  check(metric >= 0 && metric <= static_cast<int64_t>(Metric::dot), "metric must be 0, 1 or 2");
  return static_cast<Metric>(metric);
}

inline Gradient gradient_of(int64_t gradient) {
  check(gradient >= 0 && gradient <= static_cast<int64_t>(Gradient::rotation_per_depth), "gradient must be 0 to 4");
  return static_cast<Gradient>(gradient);
}

template <class Device>
struct QuantizeOperations {
  static Tensor nearest_code(const Tensor& x, const Tensor& codebook, int64_t metric) {
    QuantizeParameters p;
    set_rows(p, x, codebook, 1);
    p.metric = metric_of(metric);
    Tensor codes = empty_for(p.codes, x, {p.rows}, ScalarType::Long);
    if (p.rows > 0) Device::run(p, x);
    return codes;
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> residual_quantize(const Tensor& x, const Tensor& codebooks,
                                                                      const OptionalTensor& active_depths,
                                                                      int64_t depth, int64_t metric, int64_t gradient) {
    QuantizeParameters p;
    set_rows(p, x, codebooks, depth);
    p.metric = metric_of(metric);
    gradient_of(gradient);  // autograd's affair, but a wrong one should not wait for the backward pass
    p.active_depths = data_of<const int64_t>(active_depths, x, {p.rows}, ScalarType::Long, "active_depths");
    const Sizes columns{p.rows, depth};
    Tensor quantized = empty_for(p.quantized, x, sizes_of(x), x.scalar_type());
    Tensor codes = empty_for(p.codes, x, columns, ScalarType::Long);
    Tensor commitment = empty_for(p.commitment, x, columns, real_of(x));
    Tensor codebook_error = empty_for(p.codebook_error, x, columns, real_of(x));
    if (p.rows > 0) Device::run(p, x);
    return {quantized, codes, commitment, codebook_error};
  }

  static std::tuple<Tensor, Tensor> residual_quantize_backward(const OptionalTensor& grad_quantized,
                                                               const OptionalTensor& grad_commitment,
                                                               const OptionalTensor& grad_codebook_error,
                                                               const Tensor& x, const Tensor& codebooks,
                                                               const Tensor& codes, int64_t gradient,
                                                               std::vector<bool> needs) {
    check(needs.size() == 2, "needs must say yes or no for x and for codebooks");
    QuantizeBackwardParameters p;
    set_rows_and_codes(p, x, codes, codebooks);
    p.gradient = gradient_of(gradient);
    const Sizes columns{p.rows, p.depth};
    p.grad_quantized = data_of(grad_quantized, x, sizes_of(x), x.scalar_type(), "grad_quantized");
    p.grad_commitment = data_of(grad_commitment, x, columns, real_of(x), "grad_commitment");
    CodeSums sums;
    set_rows_and_codes(sums, x, codes, codebooks);
    sums.summed = Summed::weighted_after;
    sums.weights = data_of(grad_codebook_error, x, columns, real_of(x), "grad_codebook_error");
    sums.scale = -2.0 / static_cast<double>(x.size(1));
    sums.shared = codebooks.size(0) == 1;
    OptionalTensor grad_x, grad_codebooks;
    if (needs[0]) grad_x = empty_for(p.grad_x, x, sizes_of(x), x.scalar_type());
    if (needs[1]) grad_codebooks = zeros_for(sums.sums, x, sizes_of(codebooks), codebooks.scalar_type());
    if (needs[0] && p.rows > 0) Device::run(p, x);
    if (needs[1] && p.rows > 0 && sums.weights) Device::run(sums, x);
    return {or_nothing(grad_x, x), or_nothing(grad_codebooks, x)};
  }

  static Tensor decode_codes(const Tensor& codes, const Tensor& codebooks) {
    check(codes.dim() == 2, "codes must be [rows, depth]");
    check(codebooks.dim() == 3, "codebooks must be [depth or 1, codes, dimensions]");
    DecodeParameters p;
    p.rows = codes.size(0);
    p.depth = codes.size(1);
    p.in_double = is_double(codebooks);
    p.dtype = p.in_double ? DType::float64 : DType::float32;
    p.codebooks = codebooks_of(codebooks, codebooks, real_of(codebooks), codebooks.size(2), p.depth);
    p.codes = codes_of(codes, codebooks, p.rows);
    Tensor out = empty_for(p.out, codebooks, {p.rows, codebooks.size(2)}, codebooks.scalar_type());
    if (p.rows > 0) Device::run(p, codebooks);
    return out;
  }

  static Tensor decode_codes_backward(const Tensor& grad, const Tensor& codes, int64_t codebooks, int64_t size) {
    check(grad.dim() == 2, "grad must be [rows, dimensions]");
    check(codes.dim() == 2, "codes must be [rows, depth]");
    check(codebooks == 1 || (codebooks >= codes.size(1) && codebooks <= kMostDepths),
          "codebooks must be 1, or one for each depth");
    check(size >= 1 && size <= kMostCodes, "size must lie in [1, ", kMostCodes, "]");
    CodeSums p;
    p.rows = grad.size(0);
    p.depth = codes.size(1);
    p.in_double = is_double(grad);
    p.x = data_of(grad, grad, sizes_of(grad), real_of(grad), "grad");
    p.dtype = p.in_double ? DType::float64 : DType::float32;
    p.codebooks = {nullptr, size, grad.size(1), 0};
    p.codes = codes_of(codes, grad, p.rows);
    p.shared = codebooks == 1;
    Tensor grad_codebooks = zeros_for(p.sums, grad, {codebooks, size, grad.size(1)}, grad.scalar_type());
    if (p.rows > 0) Device::run(p, grad);
    return grad_codebooks;
  }

  VISGEN_OPERATIONS(nearest_code, residual_quantize, residual_quantize_backward, decode_codes, decode_codes_backward)
};

}  // namespace visgen
