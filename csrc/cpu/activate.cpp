// The family `activate` on the CPU.
#include "../ops/activate_call.h"

#include <algorithm>

#include "device.h"

namespace visgen {
namespace {

constexpr int64_t kLeastRows = 32;  // of a unit, whose sums cost as much as one of its rows

struct Activate {
  static void run(ActivateParameters p, const Tensor&) {
    p.partition = Partition(1, p.shape.elements, p.shape.elements, kUnit);
    run_units(p);
  }

  static void run(ActivateBackwardParameters p, const Tensor& like) {
    const bool adds_up = p.grad_bias[0].data;
    const int64_t rows = std::max(kLeastRows, kUnit / p.columns);
    p.partition = Partition(1, p.shape.elements, p.shape.elements, adds_up ? rows * p.columns : kUnit);
    const OptionalTensor sums = add_partial_sums(p, like);
    run_units(p);
    for_each_sum(p, [](const SharedGradient& sum) { run_loop(sum, sum.groups, 1); });
  }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { ActivateOperations<Activate>::add_to(m); }

}  // namespace visgen
