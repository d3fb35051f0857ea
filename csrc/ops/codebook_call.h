// Calls of the family `codebook`.
#pragma once

#include "codebook.h"
#include "quantize_call.h"

namespace visgen {

template <class Device>
struct CodebookOperations {
  static std::tuple<Tensor, Tensor> codebook_statistics(const Tensor& x, const Tensor& codes, const Tensor& codebooks) {
    CodeSums p;
    set_rows_and_codes(p, x, codes, codebooks);
    p.summed = Summed::before;
    Tensor counts = zeros_on(codebooks, {p.depth, p.codebooks.codes}, codebooks.scalar_type());
    Tensor sums = zeros_on(codebooks, {p.depth, p.codebooks.codes, p.codebooks.dimensions}, codebooks.scalar_type());
    p.counts = counts.mutable_data_ptr();
    p.sums = sums.mutable_data_ptr();
    if (p.rows > 0) Device::run(p, x);
    return {counts, sums};
  }

  static void add_to(Library& m) { m.impl("codebook_statistics", TORCH_BOX(&codebook_statistics)); }
};

}  // namespace visgen
