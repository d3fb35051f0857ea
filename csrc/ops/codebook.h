// The family `codebook`, and the gradients of codebooks: sums of rows by their codes. What its kernels are told.
#pragma once

#include "quantize.h"

namespace visgen {

// What is added up over the rows of a code. A residual is x less the embeddings of the depths before.
enum class Summed : uint8_t {
  rows,            // the rows as they are; there are no embeddings
  before,          // residuals before they lose the code; from the first with NaN or infinity on, a row's count nowhere
  weighted_after,  // weight · residual after it lost the code
};

struct CodeSums {
  Summed summed = Summed::rows;
  int64_t rows = 0, depth = 0;
  bool in_double = false;
  const void* x = nullptr;  // [rows, dimensions]
  DType dtype = DType::float32;
  Codebooks codebooks;             // without data for Summed::rows
  const int64_t* codes = nullptr;  // [rows, depth]; −1: none
  // For Summed::weighted_after: a weight is scale times one of these.
  const void* weights = nullptr;  // [rows, depth] real
  double scale = 1;
  bool shared = false;  // all depths add to one codebook
  // Outputs, real, zeros before; of [depth, ...], or [1, ...] where shared.
  void* sums = nullptr;    // [..., codes, dimensions]
  void* counts = nullptr;  // [..., codes]: how many rows were added up; absent where nobody asks
};

}  // namespace visgen
