// Sums of rows by their codes (CodeSums), as the CPU kernels see them: one depth after the other, plain data.
#pragma once

#include "../ops/codebook.h"
#include "../ops/tensors.h"

namespace visgen {

// Throws where a code is neither −1 nor one of the codebook's.
void check_codes(const int64_t* codes, int64_t count, int64_t codes_per_book);

// The work of a CodeSums.
void sum_by_code(const CodeSums& call, const Tensor& like);

}  // namespace visgen
