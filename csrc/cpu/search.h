// The work of the families `quantize` and `codebook` as the CPU kernels see it: one depth at a time, plain data.
#pragma once

#include "../ops/codebook.h"

namespace visgen {

// The search of one depth. Between depths the residuals lie in memory, unless there is only one depth.
struct Search {
  const QuantizeParameters* call = nullptr;
  int64_t depth = 0;
  const void* codebook = nullptr;  // of this depth, [codes, dimensions] real
  void* residuals = nullptr;       // [rows, dimensions] real, from the first depth's end to the last depth's beginning
  uint8_t* broken = nullptr;       // [rows]: 1 from the depth on that finds NaN or infinity in the residual
};

// Sums of embeddings: decoding, and what quantizing puts out.
struct Embedding {
  int64_t rows = 0, depth = 0;
  Codebooks codebooks;
  bool in_double = false;
  const int64_t* codes = nullptr;   // [rows, depth]
  const uint8_t* broken = nullptr;  // [rows]: whose sum is NaN; may be absent
  void* out = nullptr;              // [rows, dimensions] of dtype
  DType dtype = DType::float32;
};

// What is added up over the rows of one code at one depth.
enum class Summed : uint8_t {
  rows,            // the rows as they are
  before,          // residuals before they lose the code; not those with NaN or infinity, and they are counted
  weighted_after,  // −2/dimensions · weight · residual after it lost the code
};

// Sums of rows by their codes, one depth of them. `order` lists the rows that have a code, by code, then by number. It
// is cut into chunks of kRowsOfChunk whatever the number of threads: a chunk writes the sums of the codes that begin
// and end in it, and leaves those of its first and its last code in `edge_sums`, to be added up in the order of chunks.
struct CodeSums {
  Summed summed = Summed::rows;
  int64_t rows = 0, dimensions = 0;  // rows: length of order
  bool in_double = false;
  const int64_t* codes = nullptr;  // [*, code_stride], of this depth
  int64_t code_stride = 0;
  const int32_t* order = nullptr;  // [rows]
  const void* source = nullptr;    // [*, dimensions] real: rows, or residuals at this depth
  void* target = nullptr;          // the same after it, may be source; absent where nobody will read it
  const void* codebook = nullptr;  // [codes, dimensions] real; absent for Summed::rows
  const void* weights = nullptr;   // [*, code_stride] real, of this depth
  void* sums = nullptr;            // [codes, dimensions] real: added to
  void* counts = nullptr;          // [codes] real: added to; absent where nobody counts
  double* edge_sums = nullptr;     // [chunks, 2, dimensions]
  int64_t* edge_codes = nullptr;   // [chunks, 2]; −1: none
  int64_t* edge_counts = nullptr;  // [chunks, 2]
};

constexpr int64_t kRowsOfChunk = 1024;

}  // namespace visgen
