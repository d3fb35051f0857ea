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
    const auto& [data, codes_of_book, dimensions, stride] = p.codebooks;
    Tensor counts = zeros_for(p.counts, codebooks, {p.depth, codes_of_book}, codebooks.scalar_type());
    Tensor sums = zeros_for(p.sums, codebooks, {p.depth, codes_of_book, dimensions}, codebooks.scalar_type());
    if (p.rows > 0) Device::run(p, x);
    return {counts, sums};
  }

  VISGEN_OPERATIONS(codebook_statistics)
};

}  // namespace visgen
