// Rows of columns whose code needs no table: what the families `finite_scalar` and `binary_quantize` share.
#pragma once

#include "../common/layout.h"
#include "../common/partition.h"

namespace visgen {

constexpr int kMaxColumns = 62;  // of a row: each has two levels or more, and a code stays below 2^62

// Rows of x [..., columns], numbered row-major, whatever the layout. Units are whole rows.
struct CodeRows {
  SampleShape shape;  // one sample: all of x
  Partition partition{0, 0, 0, 1};
  bool in_double = false;
  int64_t rows = 0;
  int columns = 1;
};

// The vectors that codes stand for. `decoder->at(column, columns).take(rest)` takes the columns out of a code one after
// the other and returns their values; `decoder->is_code(rest, columns)` asks of what is left whether it was a code.
template <class Decoder>
struct DecodedRows : CodeRows {
  const Decoder* decoder = nullptr;  // in the CPU's memory: a GPU's kernel is told what it points to
  const int64_t* codes = nullptr;    // [rows]
  Operand out;
};

}  // namespace visgen
