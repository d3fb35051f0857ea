// The family `diffuse` on the CPU.
#include "../ops/diffuse_call.h"

#include "../common/registration.h"
#include "kernels.h"
#include "parallel.h"

namespace visgen {
namespace {

Partition cut(int64_t samples, int64_t elements, int64_t row_size) {
  return Partition(samples, elements, row_size, kUnit);
}

void run_forward(const DiffuseParameters& p, int32_t) {
  const auto& table = kernels().diffuse;
  for_units(p.partition, [&](int64_t begin, int64_t end) {
    (p.in_double ? table.forward_double : table.forward_float)(p, begin, end);
  });
}

// Adds the units of each row in their order, so that the sum does not depend on the number of threads.
template <class Real>
void add_partial_sums(const DiffuseParameters& p) {
  const int64_t rows = p.partition.units() / p.partition.units_per_row;
  for (int64_t row = 0; row < rows; ++row) {
    for (int j = 0; j < p.coefficient_count; ++j) {
      double sum = 0;
      for (int64_t unit = 0; unit < p.partition.units_per_row; ++unit) {
        sum += p.partial_sums[(row * p.partition.units_per_row + unit) * p.coefficient_count + j];
      }
      static_cast<Real*>(p.grad_coefficients)[row * p.coefficient_count + j] = static_cast<Real>(sum);
    }
  }
}

void run_backward(const DiffuseParameters& p, int32_t) {
  const auto& table = kernels().diffuse;
  for_units(p.partition, [&](int64_t begin, int64_t end) {
    (p.in_double ? table.backward_double : table.backward_float)(p, begin, end);
  });
  if (p.partial_sums) p.in_double ? add_partial_sums<double>(p) : add_partial_sums<float>(p);
}

Tensor add_noise(const Tensor& x, const Tensor& coefficients, const OptionalTensor& seeds,
                 const OptionalTensor& endpoint, const OptionalTensor& noise, int64_t stream, ScalarType out_dtype) {
  return std::get<0>(
      diffuse_forward({x, coefficients, seeds, endpoint, noise, stream}, out_dtype, false, cut, run_forward));
}

std::tuple<Tensor, Tensor> diffuse(const Tensor& x, const Tensor& coefficients, const OptionalTensor& seeds,
                                   const OptionalTensor& endpoint, const OptionalTensor& noise, int64_t stream,
                                   ScalarType out_dtype) {
  auto [x_t, target] =
      diffuse_forward({x, coefficients, seeds, endpoint, noise, stream}, out_dtype, true, cut, run_forward);
  return {x_t, *target};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> diffuse_backward(const OptionalTensor& grad_x_t,
                                                            const OptionalTensor& grad_target, const Tensor& x,
                                                            const Tensor& coefficients, const OptionalTensor& seeds,
                                                            const OptionalTensor& endpoint, const OptionalTensor& noise,
                                                            int64_t stream, std::vector<bool> needs) {
  return diffuse_backward_with({x, coefficients, seeds, endpoint, noise, stream}, grad_x_t, grad_target, needs, cut,
                               run_backward);
}

}  // namespace

VISGEN_REGISTER(CPU, m) {
  m.impl("add_noise", TORCH_BOX(&add_noise));
  m.impl("diffuse", TORCH_BOX(&diffuse));
  m.impl("diffuse_backward", TORCH_BOX(&diffuse_backward));
}

}  // namespace visgen
