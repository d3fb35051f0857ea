// The family `codebook` on a GPU: see code_sums.cu, also for what is read, written and added up.
#include "../ops/codebook_call.h"

#include "code_sums.h"

namespace visgen {
namespace {

struct Codebook {
  static void run(const CodeSums& p, const Tensor& like) { sum_by_code(p, like); }
};

}  // namespace

VISGEN_REGISTER(CUDA, m) { CodebookOperations<Codebook>::add_to(m); }

}  // namespace visgen
