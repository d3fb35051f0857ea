// Sums of rows by their codes, one depth of them, as a kernel sees them.
#pragma once

#include "../ops/codebook.h"

namespace visgen {

// Rows as real numbers, for residuals to begin with.
struct RealRows {
  int64_t dimensions = 0;
  bool in_double = false;
  const void* x = nullptr;  // [*, dimensions]
  DType dtype = DType::float32;
  void* out = nullptr;  // [*, dimensions] real
};

// `order` lists the rows that have a code, by code, then by number. It is cut into chunks of kRowsOfChunk whatever the
// number of threads: a chunk writes the sums of the codes that begin and end in it, and leaves those of its first and
// its last code in `edge_sums`, to be added up in the order of chunks.
struct ChunkSums {
  Summed summed = Summed::rows;
  int64_t rows = 0, dimensions = 0;  // rows: length of order
  bool in_double = false;
  const int64_t* codes = nullptr;  // [*, code_stride], of this depth
  int64_t code_stride = 0;
  const int32_t* order = nullptr;  // [rows]
  const void* source = nullptr;    // [*, dimensions] of dtype: rows, or residuals at this depth
  DType dtype = DType::float32;
  void* target = nullptr;          // [*, dimensions] real: residuals after it; absent where nobody will read them
  const void* codebook = nullptr;  // [codes, dimensions] real; absent for Summed::rows
  const void* weights = nullptr;   // [*, code_stride] real, of this depth
  double scale = 1;                // of the weights
  void* sums = nullptr;            // [codes, dimensions] real: added to
  void* counts = nullptr;          // [codes] real: added to; absent where nobody counts
  double* edge_sums = nullptr;     // [chunks, 2, dimensions]
  int64_t* edge_codes = nullptr;   // [chunks, 2]; −1: none
  int64_t* edge_counts = nullptr;  // [chunks, 2]
};

// What the chunks left at their edges, [first, last) of them; all belong to one loop.
struct EdgeSums : ChunkSums {};

constexpr int64_t kRowsOfChunk = 1024;

}  // namespace visgen
