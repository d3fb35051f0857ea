// Calls of the family `codebook`: see quantize_call.h.
#pragma once

#include "codebook.h"
#include "quantize_call.h"

namespace visgen {

// A Device supplies `statistics`, of the parameters and of a tensor to allocate like.
template <class Device>
struct CodebookOperations {
  static std::tuple<Tensor, Tensor> codebook_statistics(const Tensor& x, const Tensor& codes, const Tensor& codebooks) {
    check_rows(x);
    StatisticsParameters p;
    p.rows = x.size(0);
    p.codes = checked_integers(codes, x, p.rows, 2, "codes");
    p.depth = codes.size(1);
    p.codebooks = checked_codebooks(codebooks, x, real_of(x), x.size(1), p.depth);
    p.in_double = real_of(x) == ScalarType::Double;
    p.x = x.const_data_ptr();
    p.dtype = dtype_of(x.scalar_type(), "x");
    Tensor counts = torch::stable::new_zeros(codebooks, {p.depth, p.codebooks.codes});
    Tensor sums = torch::stable::new_zeros(codebooks, {p.depth, p.codebooks.codes, x.size(1)});
    p.counts = counts.mutable_data_ptr();
    p.sums = sums.mutable_data_ptr();
    if (p.rows > 0) Device::statistics(p, x);
    return {counts, sums};
  }

  static void add_to(Library& m) { m.impl("codebook_statistics", TORCH_BOX(&codebook_statistics)); }
};

}  // namespace visgen
