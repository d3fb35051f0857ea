// Sums of rows by their codes, in an order that sizes and codes alone decide.
#pragma once

#include "../ops/quantize.h"
#include "../ops/tensors.h"

namespace visgen {

// sums[depth or 0, k] = Σ over rows and depths q with the code k of weight · (base − the embeddings of depths < q).
struct CodeSums {
  int64_t rows = 0, depth = 0;
  const int64_t* codes = nullptr;  // [rows, depth]
  bool in_double = false;
  const void* base = nullptr;  // [rows, dimensions]
  DType dtype = DType::float32;
  Codebooks codebooks;                      // data may be absent: nothing is subtracted then
  bool subtracts_own = false;               // the embedding of depth q, too
  const void* weights = nullptr;            // [rows, depth] real, or absent: 1
  double scale = 1;                         // of the weights
  bool finite_only = false;                 // leaves out rows from the depth on whose residual has NaN or infinity
  bool shared = false;                      // all depths add to one codebook
  void *sums = nullptr, *counts = nullptr;  // [depth or 1, codes, dimensions], and [depth or 1, codes] or absent; real
};

void sum_by_code(const CodeSums& p, const Tensor& like);

}  // namespace visgen
