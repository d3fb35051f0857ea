// The family `linear`, of the CPU alone: on a GPU a product of few rows is its library's.
#include "../ops/linear.h"
#include "../common/registration.h"
#include "device.h"

namespace visgen {
namespace {

// x [rows, inputs] to [rows, outputs] by a weight in panels, [⌈outputs/kPanel⌉, inputs, kPanel].
Tensor packed_linear(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, int64_t outputs, bool gelu) {
  check(x.dim() == 2, "x must be [rows, inputs], got ", x.dim(), " dimensions");
  check(outputs >= 1, "outputs must be at least 1, got ", outputs);
  LinearParameters p{x.size(0), x.size(1), outputs, gelu};
  constexpr ScalarType type = ScalarType::Float;
  p.x = data_of<const float>(x, x, {p.rows, p.inputs}, type, "x");
  p.weight = data_of<const float>(weight, x, {p.panels(), p.inputs, kPanel}, type, "weight");
  p.bias = data_of<const float>(bias, x, {outputs}, type, "bias");
  Tensor y = empty_for(p.y, x, {p.rows, outputs}, type);
  run_loop(p, p.panels(), units_of_share(p.rows * p.inputs * kPanel));
  return y;
}

}  // namespace

// Not among the schemas of all devices: `visgen_fast/nn/prepacked.py` calls it where it made the weight.
STABLE_TORCH_LIBRARY(visgen_fast_cpu, m) {
  m.def("packed_linear(Tensor x, Tensor weight, Tensor? bias, SymInt outputs, bool gelu) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(visgen_fast_cpu, CPU, m) { m.impl("packed_linear", TORCH_BOX(&packed_linear)); }

}  // namespace visgen
