// The two searches for the nearest codes at every depth. Both are exact.
#pragma once

#include "../ops/quantize.h"
#include "../ops/tensors.h"

namespace visgen {

// Looks at every code in double: any type and size (quantize_scan.cu).
void search_by_scan(const QuantizeParameters& p, const Tensor& like);

// Looks in double only at what the tensor cores cannot rule out (quantize_filter.cu). False, and nothing done, where
// that does not apply: float64, and rows that do not fit shared memory.
bool search_by_filter(const QuantizeParameters& p, const Tensor& like);

}  // namespace visgen
