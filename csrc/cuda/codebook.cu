// The family `codebook` on a GPU: see code_sums.cu, also for what is read, written and added up.
#include "../ops/codebook_call.h"

#include "code_sums.h"

namespace visgen {
namespace {

struct OnCuda {
  static void statistics(const StatisticsParameters& p, const Tensor& like) {
    CodeSums sums;
    sums.rows = p.rows;
    sums.depth = p.depth;
    sums.codes = p.codes;
    sums.in_double = p.in_double;
    sums.base = p.x;
    sums.dtype = p.dtype;
    sums.codebooks = p.codebooks;
    sums.finite_only = true;
    sums.sums = p.sums;
    sums.counts = p.counts;
    sum_by_code(sums, like);
  }
};

}  // namespace

VISGEN_REGISTER(CUDA, m) { CodebookOperations<OnCuda>::add_to(m); }

}  // namespace visgen
