// Sums of rows by their codes, in an order that sizes and codes alone decide.
#pragma once

#include "../ops/codebook.h"
#include "../ops/tensors.h"

namespace visgen {

void sum_by_code(const CodeSums& p, const Tensor& like);

}  // namespace visgen
