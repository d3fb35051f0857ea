// The family `codebook` on the CPU.
#include "../ops/codebook_call.h"

#include "code_sums.h"

namespace visgen {
namespace {

struct Codebook {
  static void run(const CodeSums& p, const Tensor& like) { sum_by_code(p, like); }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { CodebookOperations<Codebook>::add_to(m); }

}  // namespace visgen
