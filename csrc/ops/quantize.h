// The family `quantize`: what its kernels are told. Every tensor is contiguous; a row is one vector to quantize.
//
// `real` below is the arithmetic's type: double where x is float64, else float.
#pragma once

#include "../common/dtype.h"

namespace visgen {

// Which code of a codebook is nearest to a residual r; all sums in double on the values as given.
enum class Metric : uint8_t {
  l2,      // least Σ(r − e)²
  cosine,  // largest Σr·e / ‖e‖, 0 for a zero code
  dot,     // largest Σr·e
};

// How `quantized` differentiates into x. The published estimators once for the sum of all depths, once for each depth.
enum class Gradient : uint8_t { none, straight_through, straight_through_per_depth, rotation, rotation_per_depth };

// Codebooks of every depth, or one for all.
struct Codebooks {
  const void* data = nullptr;  // [depth or 1, codes, dimensions], real
  int64_t codes = 0, dimensions = 0;
  int64_t stride = 0;  // elements from one depth's codebook to the next; 0 where they share one
};

struct QuantizeParameters {
  int64_t rows = 0, depth = 0;
  Codebooks codebooks;
  bool in_double = false;
  Metric metric = Metric::l2;
  const void* x = nullptr;  // [rows, dimensions]
  DType dtype = DType::float32;
  const int64_t* active_depths = nullptr;  // [rows]; null: all depths of every row
  // Outputs. A row's residual begins as x (in real) and loses its code at each depth: r ← real(r − e).
  void* quantized = nullptr;                              // [rows, dimensions] of dtype, the codes' sum; may be absent
  int64_t* codes = nullptr;                               // [rows, depth]; −1 where not active
  void *commitment = nullptr, *codebook_error = nullptr;  // [rows, depth] real, mean square of r − e; may be absent
};

struct QuantizeBackwardParameters {
  int64_t rows = 0, depth = 0;
  Codebooks codebooks;
  bool in_double = false;
  Gradient gradient = Gradient::none;
  const void* x = nullptr;  // [rows, dimensions]
  DType dtype = DType::float32;
  const int64_t* codes = nullptr;         // [rows, depth]
  const void* grad_quantized = nullptr;   // [rows, dimensions] of dtype; absent is zero, like the next
  const void* grad_commitment = nullptr;  // [rows, depth] real
  void* grad_x = nullptr;                 // like x
};

struct DecodeParameters {
  int64_t rows = 0, depth = 0;
  Codebooks codebooks;
  bool in_double = false;
  const int64_t* codes = nullptr;  // [rows, depth]; −1 adds nothing
  void* out = nullptr;             // [rows, dimensions] of dtype
  DType dtype = DType::float32;    // real
};

}  // namespace visgen
