// Calls of the family `activate`.
#pragma once

#include "../common/registration.h"
#include "activate.h"
#include "tensors.h"

namespace visgen {

// For a Device whose partition is cut: where it adds up.
inline OptionalTensor add_partial_sums(ActivateBackwardParameters& p, const Tensor& like) {
  if (!p.grad_bias[0].data) return std::nullopt;
  return empty_for(p.partial_sums, like, {p.partition.units(), 1 + p.is_gated, p.columns}, ScalarType::Double);
}

// Calls body(sum) for the gradient of each half's bias.
template <class Body>
void for_each_sum(const ActivateBackwardParameters& p, Body body) {
  for (int half = 0; half < 1 + p.is_gated && p.grad_bias[0].data; ++half) {
    SharedGradient sum;
    sum.shape = p.shape, sum.in_double = p.in_double, sum.columns = p.columns;
    sum.units_per_run = p.partition.units();
    sum.unit_stride = (1 + p.is_gated) * p.columns;
    sum.partial_sums = p.partial_sums + half * p.columns;
    sum.gradient = p.grad_bias[half];
    body(sum);
  }
}

template <class Device>
struct ActivateOperations {
  static Tensor activate(const Tensor& x, const OptionalTensor& bias, int64_t kind) {
    return forward(x, bias, kind, Halves::none);
  }

  static Tensor gated_activate(const Tensor& x, const OptionalTensor& bias, int64_t kind, bool gate_first) {
    return forward(x, bias, kind, gate_first ? Halves::gate_first : Halves::gate_second);
  }

  // Gradients of (x, bias), empty where `needs` says no.
  static std::tuple<Tensor, Tensor> activate_backward(const Tensor& grad_y, const Tensor& x, const OptionalTensor& bias,
                                                      int64_t kind, std::vector<bool> needs) {
    return backward(grad_y, x, bias, kind, Halves::none, needs);
  }

  static std::tuple<Tensor, Tensor> gated_activate_backward(const Tensor& grad_y, const Tensor& x,
                                                            const OptionalTensor& bias, int64_t kind, bool gate_first,
                                                            std::vector<bool> needs) {
    return backward(grad_y, x, bias, kind, gate_first ? Halves::gate_first : Halves::gate_second, needs);
  }

  VISGEN_OPERATIONS(activate, activate_backward, gated_activate, gated_activate_backward)

 private:
  enum class Halves { none, gate_first, gate_second };

  // The gate and what it multiplies, or all of the tensor.
  static std::vector<Tensor> parts_of(Tensor tensor, Halves halves) {
    if (halves == Halves::none) return {tensor};
    const int64_t dimension = tensor.dim() - 1, size = tensor.size(dimension) / 2;
    const int64_t gate = halves == Halves::gate_first ? 0 : size;
    return {torch::stable::narrow(tensor, dimension, gate, size),
            torch::stable::narrow(tensor, dimension, size - gate, size)};
  }

  // Without a bias rows need not be told apart.
  static Kind kind_of(const OptionalTensor& bias) { return bias ? Kind::rows : Kind::one_sample; }

  static void set_inputs(ActivatedRows& p, Batch& batch, const std::vector<Tensor>& x, const Tensor& whole,
                         const OptionalTensor& bias, int64_t kind, Halves halves) {
    check(kind >= 0 && kind <= static_cast<int64_t>(Activation::silu), "kind must be 0, 1 or 2, got ", kind);
    p.kind = static_cast<Activation>(kind);
    p.in_double = is_double(whole);
    p.is_gated = halves != Halves::none;
    for (size_t half = 0; half < x.size(); ++half) batch.add_floating({x[half], p.x[half], "x"});
    if (bias) add_bias(p.bias, batch, *bias, whole, halves);
  }

  static void add_bias(Operand (&operands)[2], Batch& batch, const Tensor& bias, const Tensor& x, Halves halves) {
    check(bias.dim() == 1 && bias.size(0) == x.size(x.dim() - 1), "bias must have one number for each column of x");
    const std::vector<Tensor> parts = parts_of(bias, halves);
    for (size_t half = 0; half < parts.size(); ++half) batch.add_broadcast(parts[half], operands[half], "bias");
  }

  static void merge(ActivatedRows& p, Batch& batch) {
    p.shape = batch.merge();
    p.columns = p.shape.sizes[p.shape.dimensions - 1];
    p.rows = p.shape.elements / p.columns;
  }

  static void check_halves(const Tensor& x, Halves halves) {
    check_dimensions(x, Kind::rows);
    check(halves == Halves::none || x.size(x.dim() - 1) % 2 == 0, "x must have an even number of columns");
  }

  static Tensor forward(const Tensor& x, const OptionalTensor& bias, int64_t kind, Halves halves) {
    check_halves(x, halves);
    ActivateParameters p;
    const std::vector<Tensor> parts = parts_of(x, halves);
    Batch batch(parts[0], kind_of(bias));
    set_inputs(p, batch, parts, x, bias, kind, halves);
    const Tensor y = empty_like(parts[0], x.scalar_type());
    batch.add({y, p.y, "y"});
    merge(p, batch);
    if (y.numel() > 0) Device::run(p, x);
    return y;
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad_y, const Tensor& x, const OptionalTensor& bias,
                                             int64_t kind, Halves halves, const std::vector<bool>& needs) {
    check_halves(x, halves);
    check(needs.size() == 2, "needs must say yes or no for each of the two inputs");
    check(bias || !needs[1], "needs must not ask for the gradient of what is not given");
    ActivateBackwardParameters p;
    const std::vector<Tensor> parts = parts_of(x, halves);
    Batch batch(parts[0], kind_of(bias));
    set_inputs(p, batch, parts, x, bias, kind, halves);
    batch.add_floating({grad_y, p.grad_y, "grad_y"});
    OptionalTensor grad_x, grad_bias;
    if (needs[0]) {
      grad_x = empty_like(x, x.scalar_type());
      const std::vector<Tensor> into = parts_of(*grad_x, halves);
      for (size_t half = 0; half < into.size(); ++half) batch.add({into[half], p.grad_x[half], "x"});
    }
    if (needs[1]) {
      grad_bias = empty_like(*bias, bias->scalar_type());
      add_bias(p.grad_bias, batch, *grad_bias, x, halves);
      if (x.numel() == 0) torch::stable::zero_(*grad_bias);
    }
    merge(p, batch);
    if (x.numel() > 0 && (needs[0] || needs[1])) Device::run(p, x);
    return {or_nothing(grad_x, x), or_nothing(grad_bias, x)};
  }
};

}  // namespace visgen
