// The family `codebook` on the CPU.
#include "../ops/codebook_call.h"

#include "code_sums.h"

namespace visgen {
namespace {

struct Cpu {
  static void statistics(const StatisticsParameters& p, const Tensor& x) {
    check_codes(p.codes, p.rows * p.depth, p.codebooks.codes);
    if (p.depth == 0) return;
    Tensor residuals = first_residuals(x, p.depth);
    CodeSums sums;
    sums.summed = Summed::before;
    sums.source = residuals.const_data_ptr();
    sums.target = p.depth > 1 ? residuals.mutable_data_ptr() : nullptr;
    sums.counts = p.counts;
    add_up_depths(sums, p.rows, p.depth, p.codes, p.codebooks, p.in_double, p.sums,
                  p.codebooks.codes * p.codebooks.dimensions);
  }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { CodebookOperations<Cpu>::add_to(m); }

}  // namespace visgen
