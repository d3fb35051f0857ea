// The family `finite_scalar` on the CPU.
#include "../ops/finite_scalar_call.h"

#include "kernels.h"
#include "parallel.h"

namespace visgen {
namespace {

template <class Parameters>
void run(const Parameters& p, void (*in_float)(const Parameters&, int64_t, int64_t),
         void (*in_double)(const Parameters&, int64_t, int64_t)) {
  for_units(p.partition, [&](int64_t begin, int64_t end) { (p.in_double ? in_double : in_float)(p, begin, end); });
}

struct OnCpu {
  static void quantize(const FiniteScalarParameters& p, int32_t) {
    run(p, kernels().finite_scalar.quantize_float, kernels().finite_scalar.quantize_double);
  }

  static void backward(const FiniteScalarParameters& p, int32_t) {
    run(p, kernels().finite_scalar.backward_float, kernels().finite_scalar.backward_double);
  }

  static void decode(const FiniteScalarParameters& p, int32_t) {
    run(p, kernels().finite_scalar.decode, kernels().finite_scalar.decode);
  }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { FiniteScalarOperations<OnCpu>::add_to(m); }

}  // namespace visgen
