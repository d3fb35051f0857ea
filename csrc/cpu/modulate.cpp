// The family `modulate` on the CPU.
#include "../ops/modulate_call.h"

#include "device.h"

namespace visgen {
namespace {

constexpr int64_t kLeastRows = 32;  // of a unit, whose sums cost as much as one of its rows

template <class Parameters>
void run_rows(const Parameters& p) {
  run_loop(p, p.partition.units(), units_of_share(p.partition.unit_size * p.columns * 4));
}

struct Modulate {
  static void run(ModulateParameters p, const Tensor&) {
    set_units(p, p.rows, kUnit, kLeastRows);
    run_rows(p);
  }

  static void run(ModulateBackwardParameters p, const Tensor& like) {
    set_units(p, rows_of_run(p), kUnit, kLeastRows);
    const OptionalTensor sums = add_partial_sums(p, like);
    run_rows(p);
    for_each_sum(p, [](const SharedGradient& sum) {
      run_loop(sum, sum.groups, units_of_share(sum.members * sum.units_per_run * sum.columns));
    });
  }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { ModulateOperations<Modulate>::add_to(m); }

}  // namespace visgen
