// The family `finite_scalar` on the CPU.
#include "../ops/finite_scalar_call.h"

#include "device.h"

namespace visgen {
VISGEN_REGISTER(CPU, m) { FiniteScalarOperations<OnCpu>::add_to(m); }
}  // namespace visgen
