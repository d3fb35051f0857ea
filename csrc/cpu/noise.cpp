// The family `noise` on the CPU.
#include "../ops/noise_call.h"

#include "../common/philox.h"
#include "device.h"

namespace visgen {
namespace {

struct Noise {
  static void run(NoiseParameters p, const Tensor&) {
    p.partition = Partition(p.shape.samples, p.shape.elements, p.shape.elements, kUnit);
    run_units(p);
  }

  static void run(const SeedParameters& p, const Tensor&) {
    parallel_for(0, p.count, kUnit, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        p.out[i] = generic::derived_seed(p.seed[i * p.seed_stride], p.stream, p.index[i * p.index_stride]);
      }
    });
  }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { NoiseOperations<Noise>::add_to(m); }

}  // namespace visgen
