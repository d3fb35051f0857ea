// The family `optimize` on the CPU.
#include "../ops/optimize_call.h"

#include "device.h"

namespace visgen {
namespace {

struct Optimize {
  static void run(AdamWParameters p, const Tensor&) {
    if (p.numbers) p.factors = AdamWFactors(*p.numbers);
    if (p.factors.leaves_out()) return;
    p.partition = Partition(1, p.lists.elements(), p.lists.elements(), kUnit);
    run_units(p);
  }

  static void run(GradientNormParameters p, const Tensor& like) {
    p.partition = Partition(1, p.lists.elements(), p.lists.elements(), kUnit);
    const Tensor memory = empty_for(p.partial_sums, like, {p.partition.units()}, ScalarType::Double);
    run_units(p);
    double sum = 0;
    for (int64_t unit = 0; unit < p.partition.units(); ++unit) sum += p.partial_sums[unit];
    p.in_double ? void(*static_cast<double*>(p.norm) = std::sqrt(sum))
                : void(*static_cast<float*>(p.norm) = static_cast<float>(std::sqrt(sum)));
  }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { OptimizeOperations<Optimize>::add_to(m); }

}  // namespace visgen
