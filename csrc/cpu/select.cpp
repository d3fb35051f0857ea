// The family `select` on the CPU.
#include "../ops/select_call.h"

#include "device.h"

namespace visgen {
namespace {

struct Select {
  static void run(DrawParameters p, const Tensor&) {
    p.partition = rows_of(p);
    run_units(p);
  }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { SelectOperations<Select>::add_to(m); }

}  // namespace visgen
