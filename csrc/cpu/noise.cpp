// The family `noise` on the CPU.
#include "../ops/noise_call.h"

#include "../common/philox.h"
#include "kernels.h"
#include "parallel.h"

namespace visgen {
namespace {

struct OnCpu {
  static constexpr int64_t kUnit = visgen::kUnit;

  static void fill(const NoiseParameters& p, Distribution distribution, int32_t) {
    const auto& table = kernels().noise;
    const bool in_double = p.out.dtype == DType::float64;
    const auto kernel = distribution == Distribution::gaussian
                            ? (in_double ? table.gaussian_double : table.gaussian_float)
                            : (in_double ? table.uniform_double : table.uniform_float);
    for_units(p.partition, [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
  }

  static void derive_seeds(const SeedParameters& p, int32_t) {
    parallel_for(0, p.count, kUnit, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        p.out[i] = generic::derived_seed(p.seed[i * p.seed_stride], p.stream, p.index[i * p.index_stride]);
      }
    });
  }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { NoiseOperations<OnCpu>::add_to(m); }

}  // namespace visgen
