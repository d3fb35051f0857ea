// Every operation that all devices have: the table of contents. Shapes and meaning are documented where users call
// them, in visgen_fast/ops; sizes are SymInt so that a new size does not recompile a model.
#include "common/registration.h"

VISGEN_SCHEMAS(m) {
  // noise
  m.def("derive_seeds(Tensor seed, Tensor index, SymInt stream) -> Tensor");
  m.def("gaussian_(Tensor(a!) out, Tensor seeds, SymInt stream) -> ()");
  m.def("uniform_(Tensor(a!) out, Tensor seeds, SymInt stream) -> ()");
  m.def("gumbel_(Tensor(a!) out, Tensor seeds, SymInt stream) -> ()");

  // diffuse: coefficients are [rows, 4 or 6]; a row covers x.numel() / rows consecutive elements
  m.def(
      "add_noise(Tensor x, Tensor coefficients, Tensor? seeds, Tensor? endpoint, Tensor? noise, SymInt stream, "
      "ScalarType out_dtype) -> Tensor");
  m.def(
      "diffuse(Tensor x, Tensor coefficients, Tensor? seeds, Tensor? endpoint, Tensor? noise, SymInt stream, "
      "ScalarType out_dtype) -> (Tensor x_t, Tensor target)");
  // needs: the gradients asked for, of (x, coefficients, endpoint, noise); the others come back with no elements
  m.def(
      "diffuse_backward(Tensor? grad_x_t, Tensor? grad_target, Tensor x, Tensor coefficients, Tensor? seeds, "
      "Tensor? endpoint, Tensor? noise, SymInt stream, bool[] needs) -> (Tensor, Tensor, Tensor, Tensor)");

  // multiscale: weight has as many dimensions as pred and broadcasts to it; scale_weights is empty for the paper's;
  // penalty and reduction as in ops/multiscale.h; gradient, of gradient_dtype, is what the loss has into pred
  m.def(
      "multiscale_loss(Tensor pred, Tensor target, Tensor? weight, SymInt[] scales, float[] scale_weights, "
      "int penalty, float penalty_scale, int reduction, ScalarType? gradient_dtype) "
      "-> (Tensor loss, Tensor terms, Tensor gradient)");
  m.def(
      "denoising_loss(Tensor pred, Tensor x, Tensor coefficients, Tensor? seeds, Tensor? endpoint, Tensor? noise, "
      "Tensor? weight, SymInt stream, SymInt[] scales, float[] scale_weights, int penalty, float penalty_scale, "
      "int reduction, ScalarType? gradient_dtype) -> (Tensor loss, Tensor terms, Tensor gradient)");
  // needs: the gradients asked for, of (pred, target, weight) and (pred, x, coefficients, endpoint, noise, weight); the
  // others come back with no elements, and so does always the last
  m.def(
      "multiscale_loss_backward(Tensor grad_loss, Tensor pred, Tensor target, Tensor? weight, Tensor gradient, "
      "SymInt[] scales, float[] scale_weights, int penalty, float penalty_scale, int reduction, bool[] needs) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "denoising_loss_backward(Tensor grad_loss, Tensor pred, Tensor x, Tensor coefficients, Tensor? seeds, "
      "Tensor? endpoint, Tensor? noise, Tensor? weight, Tensor gradient, SymInt stream, SymInt[] scales, "
      "float[] scale_weights, int penalty, float penalty_scale, int reduction, bool[] needs) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");

  // modulate: each of gate, scale and shift is the sum of two tensors, and 1 or 0 where both are absent; norm is 0 for
  // layer, 1 for rms, which has no mean
  m.def(
      "modulated_norm(Tensor x, Tensor? scale, Tensor? scale_table, Tensor? shift, Tensor? shift_table, "
      "Tensor? weight, Tensor? bias, int norm, float eps) -> (Tensor y, Tensor mean, Tensor inverse_deviation)");
  m.def(
      "gated_residual_norm(Tensor x, Tensor branch, Tensor? gate, Tensor? gate_table, Tensor? scale, "
      "Tensor? scale_table, Tensor? shift, Tensor? shift_table, Tensor? weight, Tensor? bias, int norm, float eps) "
      "-> (Tensor residual, Tensor y, Tensor mean, Tensor inverse_deviation)");
  // needs: the gradients asked for, of all tensors of the operation in their order; the others come back with no
  // elements
  m.def(
      "modulated_norm_backward(Tensor? grad_y, Tensor x, Tensor? scale, Tensor? scale_table, Tensor? shift, "
      "Tensor? shift_table, Tensor? weight, Tensor? bias, Tensor mean, Tensor inverse_deviation, int norm, float eps, "
      "bool[] needs) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "gated_residual_norm_backward(Tensor? grad_residual, Tensor? grad_y, Tensor x, Tensor branch, Tensor? gate, "
      "Tensor? gate_table, Tensor? scale, Tensor? scale_table, Tensor? shift, Tensor? shift_table, Tensor? weight, "
      "Tensor? bias, Tensor residual, Tensor mean, Tensor inverse_deviation, int norm, float eps, bool[] needs) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");

  // activate: kind is 0 for gelu_tanh, 1 for gelu, 2 for silu; bias has a number for each column of x. One half of the
  // columns of what is gated is the gate, the first or the second. needs: whether x and bias want a gradient
  m.def("activate(Tensor x, Tensor? bias, int kind) -> Tensor y");
  m.def("activate_backward(Tensor grad_y, Tensor x, Tensor? bias, int kind, bool[] needs) -> (Tensor, Tensor)");
  m.def("gated_activate(Tensor x, Tensor? bias, int kind, bool gate_first) -> Tensor y");
  m.def(
      "gated_activate_backward(Tensor grad_y, Tensor x, Tensor? bias, int kind, bool gate_first, bool[] needs) "
      "-> (Tensor, Tensor)");

  // quantize: x is [rows, dimensions], codebooks [depth or 1, codes, dimensions]; metric and gradient as in
  // ops/quantize.h
  m.def("nearest_code(Tensor x, Tensor codebook, int metric) -> Tensor");
  m.def(
      "residual_quantize(Tensor x, Tensor codebooks, Tensor? active_depths, SymInt depth, int metric, int gradient) "
      "-> (Tensor quantized, Tensor codes, Tensor commitment, Tensor codebook_error)");
  // needs: the gradients asked for, of (x, codebooks); the other comes back with no elements
  m.def(
      "residual_quantize_backward(Tensor? grad_quantized, Tensor? grad_commitment, Tensor? grad_codebook_error, "
      "Tensor x, Tensor codebooks, Tensor codes, int gradient, bool[] needs) -> (Tensor, Tensor)");
  m.def("decode_codes(Tensor codes, Tensor codebooks) -> Tensor");
  m.def("decode_codes_backward(Tensor grad, Tensor codes, SymInt codebooks, SymInt size) -> Tensor");

  // codebook
  m.def("codebook_statistics(Tensor x, Tensor codes, Tensor codebooks) -> (Tensor counts, Tensor sums)");

  // finite_scalar: bound is 0 for atanh, 1 for tan, 2 for symmetric
  m.def("finite_scalar_quantize(Tensor x, SymInt[] levels, SymInt bound) -> (Tensor quantized, Tensor codes)");
  m.def(
      "finite_scalar_quantize_backward(Tensor grad_quantized, Tensor x, SymInt[] levels, SymInt bound) -> Tensor "
      "grad_x");
  m.def("finite_scalar_decode(Tensor codes, SymInt[] levels, SymInt bound, ScalarType dtype) -> Tensor");
  // binary_quantize: surprisal, for the backward, is -ln of the mean probability of each code of each group
  m.def(
      "binary_quantize(Tensor x, float scale, float inverse_temperature, SymInt group_size, bool spherical, "
      "bool entropy) -> (Tensor quantized, Tensor codes, Tensor per_sample_entropy, Tensor batch_entropy, "
      "Tensor surprisal)");
  m.def(
      "binary_quantize_backward(Tensor? grad_quantized, Tensor? grad_per_sample_entropy, Tensor? grad_batch_entropy, "
      "Tensor x, Tensor surprisal, float scale, float inverse_temperature, SymInt group_size, bool spherical) -> "
      "Tensor grad_x");
  m.def("binary_decode(Tensor codes, SymInt bits, float scale, ScalarType dtype) -> Tensor");

  // solve: table is float64 [rows, 32], steps int64 with a row for as many consecutive elements as they divide x into,
  // weights float64 [rows or 1, samples or 1, outputs]; slots that the row names are overwritten, and x without out
  m.def(
      "solver_step_(Tensor(a!) x, Tensor output, Tensor? output_1, Tensor? output_2, Tensor table, Tensor? steps, "
      "SymInt step, Tensor(b!)? slot_0, Tensor(c!)? slot_1, Tensor(d!)? slot_2, Tensor(e!)? slot_3, Tensor? weights, "
      "Tensor? seeds, Tensor? noise, SymInt stream, Tensor? variance, Tensor? limit, Tensor(f!)? out) -> ()");
  m.def(
      "denoised_quantile(Tensor x, Tensor output, Tensor? output_1, Tensor? output_2, Tensor table, Tensor? steps, "
      "SymInt step, Tensor? weights, float q) -> Tensor");
  m.def("output_products(Tensor? x, Tensor output, Tensor? output_1, Tensor? output_2) -> Tensor");

  // optimize: numbers, or changing in their place (float64, on the device), are learning_rate, beta1, beta2, eps,
  // weight_decay, step, average_decay, gradient_scale; averages may be empty
  m.def(
      "adamw_(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!)[] means, Tensor(c!)[] squares, "
      "Tensor(d!)[] averages, float[] numbers, Tensor? changing) -> ()");
  m.def("gradient_norm(Tensor[] gradients) -> Tensor");

  // select: settings, where samples differ, are float64 [samples, 4]: guidance, temperature, top_k, top_p; else the
  // numbers hold. log_probability has no elements where it is not asked for
  m.def(
      "sample_tokens(Tensor logits, Tensor? unconditional, Tensor seeds, Tensor? settings, float guidance, "
      "float temperature, SymInt top_k, float top_p, SymInt stream, bool log_probability) -> (Tensor codes, "
      "Tensor log_probability)");
}

// The CUDA version that the CUDA library beside this one was built with, as 1000·major + 10·minor; 0 where there is
// none. Asked before loading that library, since a driver that is too old for it is worth a sentence.
extern "C" __attribute__((visibility("default"))) int visgen_fast_cuda_version() {
#ifdef VISGEN_CUDA_VERSION
  return VISGEN_CUDA_VERSION;
#else
  return 0;
#endif
}
