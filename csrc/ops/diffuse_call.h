// Calls of the family `diffuse`.
#pragma once

#include "../common/registration.h"
#include "diffuse.h"
#include "tensors.h"

namespace visgen {

// The inputs of a call, as the schema gives them.
struct DiffuseInputs {
  const Tensor& x;
  const Tensor& coefficients;
  const OptionalTensor &seeds, &endpoint, &noise;
  int64_t stream;
};

// All but operands and shape, which wait until a Batch has seen every tensor.
inline void set_inputs(Diffusion& p, const DiffuseInputs& in) {
  p.in_double = is_double(in.x);
  p.coefficient_count = in.endpoint ? 6 : 4;
  check(in.coefficients.dim() == 2, "coefficients must be [rows, ", p.coefficient_count, "]");
  const int64_t rows = in.coefficients.size(0), samples = in.x.size(0), elements = in.x.numel();
  p.coefficients = data_of(in.coefficients, in.x, {rows, p.coefficient_count}, real_of(in.x), "coefficients");
  check(samples == 0 ? rows == 0 : rows % samples == 0 && (rows > 0 ? elements % rows == 0 : elements == 0),
        "coefficients must have a multiple of ", samples, " rows that divides the elements of x, got ", rows);
  p.row_size = rows ? elements / rows : 0;
  check(in.seeds.has_value() != in.noise.has_value(), "exactly one of seeds and noise must be given");
  p.seeds = seeds_of(in.seeds, in.x);
  p.stream = static_cast<uint64_t>(in.stream);
}

inline void add_signals(const DiffuseInputs& in, Batch& batch, Diffusion& p) {
  batch.add(in.x, p.x, "x");
  batch.add(in.endpoint, p.endpoint, "endpoint");
  batch.add(in.noise, p.noise, "noise");
}

// For a Device whose partition is cut: where a row takes several units, what they are added up in.
inline OptionalTensor add_partial_sums(DiffuseBackwardParameters& p, const Tensor& like) {
  if (!p.grad_coefficients || p.partition.units_per_row <= 1) return std::nullopt;
  Tensor sums = empty_on(like, {p.partition.units(), p.coefficient_count}, ScalarType::Double);
  p.partial_sums = sums.mutable_data_ptr<double>();
  return sums;
}

template <class Device>
struct DiffuseOperations {
  static Tensor add_noise(const Tensor& x, const Tensor& coefficients, const OptionalTensor& seeds,
                          const OptionalTensor& endpoint, const OptionalTensor& noise, int64_t stream,
                          ScalarType out_dtype) {
    return std::get<0>(forward({x, coefficients, seeds, endpoint, noise, stream}, out_dtype, false));
  }

  static std::tuple<Tensor, Tensor> diffuse(const Tensor& x, const Tensor& coefficients, const OptionalTensor& seeds,
                                            const OptionalTensor& endpoint, const OptionalTensor& noise, int64_t stream,
                                            ScalarType out_dtype) {
    auto [x_t, target] = forward({x, coefficients, seeds, endpoint, noise, stream}, out_dtype, true);
    return {x_t, *target};
  }

  // Gradients of (x, coefficients, endpoint, noise), empty where `needs` says no.
  static std::tuple<Tensor, Tensor, Tensor, Tensor> diffuse_backward(
      const OptionalTensor& grad_x_t, const OptionalTensor& grad_target, const Tensor& x, const Tensor& coefficients,
      const OptionalTensor& seeds, const OptionalTensor& endpoint, const OptionalTensor& noise, int64_t stream,
      std::vector<bool> needs) {
    check(needs.size() == 4, "needs must say yes or no for each of x, coefficients, endpoint and noise");
    check((!needs[2] || endpoint) && (!needs[3] || noise), "needs must not ask for the gradient of what is not given");
    const DiffuseInputs in{x, coefficients, seeds, endpoint, noise, stream};
    DiffuseBackwardParameters p;
    Batch batch(x);
    set_inputs(p, in);
    if (needs[1]) add_signals(in, batch, p);  // the signals matter to the coefficients' gradient alone
    batch.add(grad_x_t, p.grad_x_t, "grad_x_t");
    batch.add(grad_target, p.grad_target, "grad_target");
    const auto gradient = [&](bool needed, const OptionalTensor& like, Operand& operand, const char* name) {
      if (!needed) return nothing_on(x);
      check(like->scalar_type() != ScalarType::Byte, name, " holds pixels, which have no gradient");
      Tensor result = empty_like(*like, like->scalar_type());
      batch.add(result, operand, name);
      return result;
    };
    Tensor grad_x = gradient(needs[0], x, p.grad_x, "x");
    Tensor grad_endpoint = gradient(needs[2], endpoint, p.grad_endpoint, "endpoint");
    Tensor grad_noise = gradient(needs[3], noise, p.grad_noise, "noise");
    Tensor grad_coefficients =
        needs[1] ? zeros_on(coefficients, sizes_of(coefficients), coefficients.scalar_type()) : nothing_on(x);
    if (needs[1]) p.grad_coefficients = grad_coefficients.mutable_data_ptr();
    p.shape = batch.merge();
    if (x.numel() > 0) Device::run(p, x);
    return {grad_x, grad_coefficients, grad_endpoint, grad_noise};
  }

  static void add_to(Library& m) {
    m.impl("add_noise", TORCH_BOX(&add_noise));
    m.impl("diffuse", TORCH_BOX(&diffuse));
    m.impl("diffuse_backward", TORCH_BOX(&diffuse_backward));
  }

 private:
  static std::tuple<Tensor, OptionalTensor> forward(const DiffuseInputs& in, ScalarType out_dtype, bool with_target) {
    DiffuseParameters p;
    Batch batch(in.x);
    set_inputs(p, in);
    add_signals(in, batch, p);
    floating_dtype_of(out_dtype, "out_dtype");
    Tensor x_t = empty_like(in.x, out_dtype);
    OptionalTensor target;
    if (with_target) target = empty_like(in.x, out_dtype);
    batch.add(x_t, p.x_t, "x_t");
    batch.add(target, p.target, "target");
    p.shape = batch.merge();
    if (in.x.numel() > 0) Device::run(p, in.x);
    return {x_t, target};
  }
};

}  // namespace visgen
