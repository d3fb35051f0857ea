// The family `codebook`: what its kernels are told.
#pragma once

#include "quantize.h"

namespace visgen {

struct StatisticsParameters {
  int64_t rows = 0, depth = 0;
  Codebooks codebooks;
  bool in_double = false;
  const void* x = nullptr;  // [rows, dimensions]
  DType dtype = DType::float32;
  const int64_t* codes = nullptr;  // [rows, depth]
  // Outputs, real: how many residuals have each code, and their sums. Residuals with NaN or infinity count nowhere.
  void* counts = nullptr;  // [depth, codes]
  void* sums = nullptr;    // [depth, codes, dimensions]
};

}  // namespace visgen
