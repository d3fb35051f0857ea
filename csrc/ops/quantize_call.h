// Calls of the family `quantize`: checks, allocation and the functions that the dispatcher calls, which both devices
// share.
#pragma once

#include "../common/registration.h"
#include "quantize.h"
#include "tensors.h"

namespace visgen {

inline void check_rows(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 2 && x.is_contiguous(), "x must be a contiguous [rows, dimensions] tensor");
  STD_TORCH_CHECK(dtype_of(x.scalar_type(), "x") != DType::uint8, "x must have a floating-point type");
}

inline Codebooks checked_codebooks(const Tensor& codebooks, const Tensor& like, ScalarType real, int64_t dimensions,
                                   int64_t depth) {
  STD_TORCH_CHECK(codebooks.device() == like.device(), "codebooks must be on the device of the vectors");
  STD_TORCH_CHECK(codebooks.dim() == 3 && codebooks.is_contiguous() && codebooks.scalar_type() == real,
                  "codebooks must be a contiguous [depth or 1, codes, dimensions] tensor of float32, or of float64 "
                  "where x is");
  STD_TORCH_CHECK(codebooks.size(0) == 1 || codebooks.size(0) >= depth, "codebooks must be one, or one for each depth");
  STD_TORCH_CHECK(codebooks.size(2) == dimensions, "codebooks must have the dimensions of x");
  STD_TORCH_CHECK(codebooks.size(1) > 0 && codebooks.size(1) < (int64_t{1} << 31), "codebooks must have codes");
  const int64_t stride = codebooks.size(0) > 1 ? codebooks.size(1) * codebooks.size(2) : 0;
  return {codebooks.const_data_ptr(), codebooks.size(1), dimensions, stride};
}

// A contiguous int64 tensor of that many dimensions, the first of them rows.
inline const int64_t* checked_integers(const Tensor& codes, const Tensor& like, int64_t rows, int dimensions,
                                       const char* name) {
  STD_TORCH_CHECK(codes.scalar_type() == ScalarType::Long && codes.is_contiguous() && codes.dim() == dimensions &&
                      codes.size(0) == rows,
                  name, " must be a contiguous int64 tensor with a row for each of the ", rows, " vectors");
  STD_TORCH_CHECK(codes.device() == like.device(), name, " must be on the device of the vectors");
  return codes.const_data_ptr<int64_t>();
}

inline Metric metric_of(int64_t metric) {
  STD_TORCH_CHECK(metric >= 0 && metric <= static_cast<int64_t>(Metric::dot), "metric must be 0, 1 or 2");
  return static_cast<Metric>(metric);
}

inline Gradient gradient_of(int64_t gradient) {
  STD_TORCH_CHECK(gradient >= 0 && gradient <= static_cast<int64_t>(Gradient::rotation_per_depth),
                  "gradient must be 0 to 4");
  return static_cast<Gradient>(gradient);
}

inline QuantizeParameters quantize_parameters(const Tensor& x, const Tensor& codebooks, int64_t depth, int64_t metric) {
  check_rows(x);
  QuantizeParameters p;
  p.rows = x.size(0);
  p.depth = depth;
  p.codebooks = checked_codebooks(codebooks, x, real_of(x), x.size(1), depth);
  p.in_double = real_of(x) == ScalarType::Double;
  p.metric = metric_of(metric);
  p.x = x.const_data_ptr();
  p.dtype = dtype_of(x.scalar_type(), "x");
  return p;
}

// `run(parameters, tensors on the device to allocate like, device index)` does the work, here and below.
template <class Run>
Tensor nearest_code_with(const Tensor& x, const Tensor& codebook, int64_t metric, Run run) {
  QuantizeParameters p = quantize_parameters(x, codebook, 1, metric);
  Tensor codes = empty_on(x, {p.rows}, ScalarType::Long);
  p.codes = codes.mutable_data_ptr<int64_t>();
  if (p.rows > 0) run(p, x);
  return codes;
}

template <class Run>
std::tuple<Tensor, Tensor, Tensor, Tensor> residual_quantize_with(const Tensor& x, const Tensor& codebooks,
                                                                  const OptionalTensor& active_depths, int64_t depth,
                                                                  int64_t metric, int64_t gradient, Run run) {
  QuantizeParameters p = quantize_parameters(x, codebooks, depth, metric);
  gradient_of(gradient);  // autograd's affair, but a wrong one should not wait for the backward pass
  if (active_depths) p.active_depths = checked_integers(*active_depths, x, p.rows, 1, "active_depths");
  Tensor quantized = empty_on(x, {p.rows, x.size(1)}, x.scalar_type());
  Tensor codes = empty_on(x, {p.rows, depth}, ScalarType::Long);
  Tensor commitment = empty_on(x, {p.rows, depth}, real_of(x));
  Tensor codebook_error = empty_on(x, {p.rows, depth}, real_of(x));
  p.quantized = quantized.mutable_data_ptr();
  p.codes = codes.mutable_data_ptr<int64_t>();
  p.commitment = commitment.mutable_data_ptr();
  p.codebook_error = codebook_error.mutable_data_ptr();
  if (p.rows > 0) run(p, x);
  return {quantized, codes, commitment, codebook_error};
}

template <class Run>
std::tuple<Tensor, Tensor> residual_quantize_backward_with(const OptionalTensor& grad_quantized,
                                                           const OptionalTensor& grad_commitment,
                                                           const OptionalTensor& grad_codebook_error, const Tensor& x,
                                                           const Tensor& codebooks, const Tensor& codes,
                                                           int64_t gradient, const std::vector<bool>& needs, Run run) {
  STD_TORCH_CHECK(needs.size() == 2, "needs must say yes or no for x and for codebooks");
  check_rows(x);
  QuantizeBackwardParameters p;
  p.rows = x.size(0);
  p.codes = checked_integers(codes, x, p.rows, 2, "codes");
  p.depth = codes.size(1);
  p.codebooks = checked_codebooks(codebooks, x, real_of(x), x.size(1), p.depth);
  p.in_double = real_of(x) == ScalarType::Double;
  p.gradient = gradient_of(gradient);
  p.x = x.const_data_ptr();
  p.dtype = dtype_of(x.scalar_type(), "x");
  const auto incoming = [&](const OptionalTensor& grad, int64_t columns, ScalarType type, const char* name) {
    if (!grad) return static_cast<const void*>(nullptr);
    STD_TORCH_CHECK(grad->is_contiguous() && grad->dim() == 2 && grad->size(0) == p.rows && grad->size(1) == columns &&
                        grad->scalar_type() == type && grad->device() == x.device(),
                    name, " must be contiguous, with the shape, type and device of what it is the gradient of");
    return grad->const_data_ptr();
  };
  p.grad_quantized = incoming(grad_quantized, x.size(1), x.scalar_type(), "grad_quantized");
  p.grad_commitment = incoming(grad_commitment, p.depth, real_of(x), "grad_commitment");
  p.grad_codebook_error = incoming(grad_codebook_error, p.depth, real_of(x), "grad_codebook_error");
  Tensor grad_x = needs[0] ? empty_on(x, {p.rows, x.size(1)}, x.scalar_type()) : empty_on(x, {0}, ScalarType::Float);
  Tensor grad_codebooks =
      needs[1] ? torch::stable::new_zeros(codebooks, {codebooks.size(0), codebooks.size(1), codebooks.size(2)})
               : empty_on(x, {0}, ScalarType::Float);
  if (needs[0]) p.grad_x = grad_x.mutable_data_ptr();
  if (needs[1]) p.grad_codebooks = grad_codebooks.mutable_data_ptr();
  if (p.rows > 0) run(p, x);
  return {grad_x, grad_codebooks};
}

template <class Run>
Tensor decode_codes_with(const Tensor& codes, const Tensor& codebooks, Run run) {
  STD_TORCH_CHECK(codes.dim() == 2, "codes must be [rows, depth]");
  STD_TORCH_CHECK(codebooks.dim() == 3, "codebooks must be [depth or 1, codes, dimensions]");
  DecodeParameters p;
  p.rows = codes.size(0);
  p.depth = codes.size(1);
  p.in_double = codebooks.scalar_type() == ScalarType::Double;
  p.codebooks = checked_codebooks(codebooks, codes, real_of(codebooks), codebooks.size(2), p.depth);
  p.codes = checked_integers(codes, codebooks, p.rows, 2, "codes");
  Tensor out = empty_on(codebooks, {p.rows, codebooks.size(2)}, codebooks.scalar_type());
  p.out = out.mutable_data_ptr();
  if (p.rows > 0) run(p, codebooks);
  return out;
}

template <class Run>
Tensor decode_codes_backward_with(const Tensor& grad, const Tensor& codes, int64_t codebooks, int64_t size, Run run) {
  STD_TORCH_CHECK(grad.dim() == 2 && grad.is_contiguous() && grad.scalar_type() == real_of(grad),
                  "grad must be a contiguous [rows, dimensions] tensor of float32 or float64");
  STD_TORCH_CHECK(codes.dim() == 2, "codes must be [rows, depth]");
  STD_TORCH_CHECK(codebooks == 1 || codebooks >= codes.size(1), "codebooks must be 1, or one for each depth");
  DecodeBackwardParameters p;
  p.rows = grad.size(0);
  p.codes = checked_integers(codes, grad, p.rows, 2, "codes");
  p.depth = codes.size(1);
  p.codes_per_book = size;
  p.dimensions = grad.size(1);
  p.in_double = grad.scalar_type() == ScalarType::Double;
  p.shared = codebooks == 1;
  p.grad = grad.const_data_ptr();
  Tensor grad_codebooks = torch::stable::new_zeros(grad, {codebooks, size, grad.size(1)});
  p.grad_codebooks = grad_codebooks.mutable_data_ptr();
  if (p.rows > 0) run(p, grad);
  return grad_codebooks;
}

// What the dispatcher calls. A Device supplies `search`, `backward`, `decode` and `sum_by_code`, each of the parameters
// and of a tensor to allocate like.
template <class Device>
struct QuantizeOperations {
  static Tensor nearest_code(const Tensor& x, const Tensor& codebook, int64_t metric) {
    return nearest_code_with(x, codebook, metric, Device::search);
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> residual_quantize(const Tensor& x, const Tensor& codebooks,
                                                                      const OptionalTensor& active_depths,
                                                                      int64_t depth, int64_t metric, int64_t gradient) {
    return residual_quantize_with(x, codebooks, active_depths, depth, metric, gradient, Device::search);
  }

  static std::tuple<Tensor, Tensor> residual_quantize_backward(const OptionalTensor& grad_quantized,
                                                               const OptionalTensor& grad_commitment,
                                                               const OptionalTensor& grad_codebook_error,
                                                               const Tensor& x, const Tensor& codebooks,
                                                               const Tensor& codes, int64_t gradient,
                                                               std::vector<bool> needs) {
    return residual_quantize_backward_with(grad_quantized, grad_commitment, grad_codebook_error, x, codebooks, codes,
                                           gradient, needs, Device::backward);
  }

  static Tensor decode_codes(const Tensor& codes, const Tensor& codebooks) {
    return decode_codes_with(codes, codebooks, Device::decode);
  }

  static Tensor decode_codes_backward(const Tensor& grad, const Tensor& codes, int64_t codebooks, int64_t size) {
    return decode_codes_backward_with(grad, codes, codebooks, size, Device::sum_by_code);
  }

  static void add_to(Library& m) {
    m.impl("nearest_code", TORCH_BOX(&nearest_code));
    m.impl("residual_quantize", TORCH_BOX(&residual_quantize));
    m.impl("residual_quantize_backward", TORCH_BOX(&residual_quantize_backward));
    m.impl("decode_codes", TORCH_BOX(&decode_codes));
    m.impl("decode_codes_backward", TORCH_BOX(&decode_codes_backward));
  }
};

}  // namespace visgen
