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

// All but operands and shape.
inline void set_inputs(Diffusion& p, const DiffuseInputs& in) {
  p.coefficient_count = in.endpoint ? 6 : 4;
  check(in.coefficients.dim() == 2, "coefficients must be [rows, ", p.coefficient_count, "]");
  const int64_t rows = in.coefficients.size(0), samples = samples_of(in.x), elements = in.x.numel();
  p.coefficients = data_of(in.coefficients, in.x, {rows, p.coefficient_count}, real_of(in.x), "coefficients");
  check(samples == 0 ? rows == 0 : rows % samples == 0 && (rows > 0 ? elements % rows == 0 : elements == 0),
        "coefficients must have a multiple of ", samples, " rows that divides the elements of x, got ", rows);
  p.row_size = rows ? elements / rows : 0;
  check(in.seeds.has_value() != in.noise.has_value(), "exactly one of seeds and noise must be given");
  p.seeds = seeds_of(in.seeds, in.x);
  p.stream = static_cast<uint64_t>(in.stream);
}

// For a Device whose partition is cut: where a row takes several units, what they are added up in.
inline OptionalTensor add_partial_sums(DiffuseBackwardParameters& p, const Tensor& like) {
  if (!p.grad_coefficients || p.partition.units_per_row <= 1) return std::nullopt;
  return empty_for(p.partial_sums, like, {p.partition.units(), p.coefficient_count}, ScalarType::Double);
}

// Of this library's Device, for calls of other families.
void run_diffuse_backward(const DiffuseBackwardParameters& p, const Tensor& like);

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
    DiffuseBackwardParameters p;
    set_inputs(p, {x, coefficients, seeds, endpoint, noise, stream});
    const auto gradient = [&](bool needed, const OptionalTensor& of, const char* name) -> OptionalTensor {
      if (!needed) return std::nullopt;
      check(of->scalar_type() != ScalarType::Byte, name, " holds pixels, which have no gradient");
      return empty_like(*of, of->scalar_type());
    };
    const OptionalTensor grad_x = gradient(needs[0], x, "x"), grad_endpoint = gradient(needs[2], endpoint, "endpoint"),
                         grad_noise = gradient(needs[3], noise, "noise"), absent;
    const bool with_signals = needs[1];  // they matter to the coefficients' gradient alone
    OptionalTensor grad_coefficients;
    if (with_signals) grad_coefficients = zeros_for(p.grad_coefficients, x, sizes_of(coefficients), real_of(x));
    if (grad_x || grad_coefficients || grad_endpoint || grad_noise) {
      run_samples<Device>(p, x,
                          {{with_signals ? x : absent, p.x, "x"},
                           {with_signals ? endpoint : absent, p.endpoint, "endpoint"},
                           {with_signals ? noise : absent, p.noise, "noise"},
                           {grad_x_t, p.grad_x_t, "grad_x_t"},
                           {grad_target, p.grad_target, "grad_target"},
                           {grad_x, p.grad_x, "x"},
                           {grad_endpoint, p.grad_endpoint, "endpoint"},
                           {grad_noise, p.grad_noise, "noise"}});
    }
    return {or_nothing(grad_x, x), or_nothing(grad_coefficients, x), or_nothing(grad_endpoint, x),
            or_nothing(grad_noise, x)};
  }

  VISGEN_OPERATIONS(add_noise, diffuse, diffuse_backward)

 private:
  static std::tuple<Tensor, OptionalTensor> forward(const DiffuseInputs& in, ScalarType out_dtype, bool with_target) {
    DiffuseParameters p;
    set_inputs(p, in);
    floating_dtype_of(out_dtype, "out_dtype");
    const Tensor x_t = empty_like(in.x, out_dtype);
    OptionalTensor target;
    if (with_target) target = empty_like(in.x, out_dtype);
    run_samples<Device>(p, in.x,
                        {{in.x, p.x, "x"},
                         {in.endpoint, p.endpoint, "endpoint"},
                         {in.noise, p.noise, "noise"},
                         {x_t, p.x_t, "x_t"},
                         {target, p.target, "target"}});
    return {x_t, target};
  }
};

}  // namespace visgen
