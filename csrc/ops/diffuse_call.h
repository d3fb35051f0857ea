// A call of the family `diffuse`: everything that both devices share, which is checks, allocation, layouts and the
// functions that the dispatcher calls. A Device supplies the rest: `cut(samples, elements, row_size)`, its way of
// cutting a batch into units, and `forward` and `backward(parameters, device index)`, which work through them.
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

inline void check_inputs(const DiffuseInputs& in) {
  const bool in_double = in.x.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(in.coefficients.scalar_type() == real_type_of(in_double),
                  "coefficients must be float32, or float64 where x is");
  STD_TORCH_CHECK(
      in.coefficients.dim() == 2 && in.coefficients.size(1) == (in.endpoint ? 6 : 4) && in.coefficients.is_contiguous(),
      "coefficients must be a contiguous [rows, ", in.endpoint ? 6 : 4, "] tensor");
  STD_TORCH_CHECK(in.coefficients.device() == in.x.device(), "coefficients must be on the device of x");
  const int64_t rows = in.coefficients.size(0), samples = in.x.size(0);
  STD_TORCH_CHECK(
      samples == 0 ? rows == 0 : rows % samples == 0 && (rows > 0 ? in.x.numel() % rows == 0 : in.x.numel() == 0),
      "coefficients must have a multiple of ", samples, " rows that divides the elements of x, got ", rows);
  STD_TORCH_CHECK(in.seeds.has_value() != in.noise.has_value(), "exactly one of seeds and noise must be given");
  if (in.seeds) check_seeds(*in.seeds, in.x);
}

// All but operands and layout, which wait until a Batch has seen every tensor.
inline DiffuseParameters parameters_of(const DiffuseInputs& in) {
  check_inputs(in);
  DiffuseParameters p;
  p.in_double = in.x.scalar_type() == ScalarType::Double;
  p.coefficients = in.coefficients.data_ptr();
  p.coefficient_count = static_cast<int>(in.coefficients.size(1));
  p.seeds = in.seeds ? in.seeds->const_data_ptr<int64_t>() : nullptr;
  p.stream = static_cast<uint64_t>(in.stream);
  return p;
}

inline void add_inputs(const DiffuseInputs& in, Batch& batch, DiffuseParameters& p) {
  batch.add(in.x, p.x, "x");
  batch.add(in.endpoint, p.endpoint, "endpoint");
  batch.add(in.noise, p.noise, "noise");
}

template <class Device>
void lay_out(const DiffuseInputs& in, Batch& batch, DiffuseParameters& p) {
  p.shape = batch.merge();
  const int64_t rows = in.coefficients.size(0);
  p.partition = Device::cut(p.shape.samples, p.shape.elements, rows ? in.x.numel() / rows : p.shape.elements);
}

// x_t, and the target where asked for.
template <class Device>
std::tuple<Tensor, OptionalTensor> diffuse_forward(const DiffuseInputs& in, ScalarType out_dtype, bool with_target) {
  Batch batch(in.x);
  DiffuseParameters p = parameters_of(in);
  add_inputs(in, batch, p);
  STD_TORCH_CHECK(dtype_of(out_dtype, "out_dtype") != DType::uint8, "out_dtype must be a floating-point type");
  Tensor x_t = empty_like(in.x, out_dtype);
  OptionalTensor target;
  if (with_target) target = empty_like(in.x, out_dtype);
  batch.add(x_t, p.x_t, "x_t");
  batch.add(target, p.target, "target");
  lay_out<Device>(in, batch, p);
  if (p.partition.units() > 0) Device::forward(p, in.x.get_device_index());
  return {x_t, target};
}

// Gradients of (x, coefficients, endpoint, noise), empty where `needs` says no.
template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> diffuse_gradients(const DiffuseInputs& in, const OptionalTensor& grad_x_t,
                                                             const OptionalTensor& grad_target,
                                                             const std::vector<bool>& needs) {
  STD_TORCH_CHECK(needs.size() == 4, "needs must say yes or no for each of x, coefficients, endpoint and noise");
  STD_TORCH_CHECK(in.x.scalar_type() != ScalarType::Byte || !needs[0], "pixels have no gradient");
  Batch batch(in.x);
  DiffuseParameters p = parameters_of(in);
  if (needs[1]) add_inputs(in, batch, p);  // the signals matter to the coefficients' gradient alone
  batch.add(grad_x_t, p.x_t, "grad_x_t");
  batch.add(grad_target, p.target, "grad_target");
  const auto gradient = [&](bool needed, const Tensor& like, Operand& operand, const char* name) {
    if (!needed) return empty_on(in.x, {0}, ScalarType::Float);
    Tensor result = empty_like(like, like.scalar_type());
    batch.add(result, operand, name);
    return result;
  };
  Tensor grad_x = gradient(needs[0], in.x, p.grad_x, "grad_x");
  Tensor grad_endpoint = gradient(needs[2], in.endpoint ? *in.endpoint : in.x, p.grad_endpoint, "grad_endpoint");
  Tensor grad_noise = gradient(needs[3], in.noise ? *in.noise : in.x, p.grad_noise, "grad_noise");
  lay_out<Device>(in, batch, p);
  Tensor grad_coefficients =
      needs[1] ? torch::stable::new_zeros(in.coefficients, {in.coefficients.size(0), p.coefficient_count})
               : empty_on(in.x, {0}, ScalarType::Float);
  OptionalTensor partial_sums;
  if (needs[1]) {
    p.grad_coefficients = grad_coefficients.data_ptr();
    if (p.partition.units_per_row > 1) {
      partial_sums = empty_on(in.x, {p.partition.units(), p.coefficient_count}, ScalarType::Double);
      p.partial_sums = partial_sums->mutable_data_ptr<double>();
    }
  }
  if (p.partition.units() > 0) Device::backward(p, in.x.get_device_index());
  return {grad_x, grad_coefficients, grad_endpoint, grad_noise};
}

template <class Device>
struct DiffuseOperations {
  static Tensor add_noise(const Tensor& x, const Tensor& coefficients, const OptionalTensor& seeds,
                          const OptionalTensor& endpoint, const OptionalTensor& noise, int64_t stream,
                          ScalarType out_dtype) {
    return std::get<0>(diffuse_forward<Device>({x, coefficients, seeds, endpoint, noise, stream}, out_dtype, false));
  }

  static std::tuple<Tensor, Tensor> diffuse(const Tensor& x, const Tensor& coefficients, const OptionalTensor& seeds,
                                            const OptionalTensor& endpoint, const OptionalTensor& noise, int64_t stream,
                                            ScalarType out_dtype) {
    auto [x_t, target] = diffuse_forward<Device>({x, coefficients, seeds, endpoint, noise, stream}, out_dtype, true);
    return {x_t, *target};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> diffuse_backward(
      const OptionalTensor& grad_x_t, const OptionalTensor& grad_target, const Tensor& x, const Tensor& coefficients,
      const OptionalTensor& seeds, const OptionalTensor& endpoint, const OptionalTensor& noise, int64_t stream,
      std::vector<bool> needs) {
    return diffuse_gradients<Device>({x, coefficients, seeds, endpoint, noise, stream}, grad_x_t, grad_target, needs);
  }

  static void add_to(Library& m) {
    m.impl("add_noise", TORCH_BOX(&add_noise));
    m.impl("diffuse", TORCH_BOX(&diffuse));
    m.impl("diffuse_backward", TORCH_BOX(&diffuse_backward));
  }
};

}  // namespace visgen
