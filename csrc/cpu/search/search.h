// The search for the nearest codes as the CPU kernels see it: one depth at a time, plain data.
#pragma once

#include "../../common/isa.h"
#include "../../ops/quantize.h"

namespace visgen {

// The search of one depth. Between depths the residuals lie in memory, unless there is only one depth.
struct Search {
  const QuantizeParameters* call = nullptr;
  bool in_double = false;
  int64_t depth = 0;
  const void* codebook = nullptr;  // of this depth, [codes, dimensions] real
  void* residuals = nullptr;       // [rows, dimensions] real, from the first depth's end to the last depth's beginning
  uint8_t* broken = nullptr;       // [rows]: 1 from the depth on that finds NaN or infinity in the residual
};

// The arithmetic that looks at every code, before the few that may be the nearest are scored one by one.
enum class Filter : uint8_t { int8, int16, float32, exact };

// The largest integer of an integer filter: sums of `dimensions` products stay within 2^29.
VISGEN_HOST_DEVICE double largest_integer(Filter filter, int64_t dimensions) {
  if (filter == Filter::int8) return 127;
  const double largest = __builtin_floor(__builtin_sqrt(0x1p+29 / static_cast<double>(dimensions)));
  return largest < 32767 ? largest : 32767;
}
constexpr double kLargestInverse = 0x1p+119;  // of a step: a float, also after multiplying by the smallest normal one

// What measuring a range of codes finds: the largest |value| and the largest ‖code‖ among codes without NaN or
// infinity.
struct Extent {
  double value = -1, norm = 0;  // value −1: there is no such code
};

// What packing a block of codes finds: the largest ‖c − ĉ‖ and the largest ½‖ĉ‖², in units of step and step².
struct Deviation {
  double error = 0, half_square = 0;
};

// A codebook as a filter reads it: for the cosine its codes at length 1; rounded to multiples ĉ of `step` by the
// integer filters. Codes lie in blocks of `group` vectors of 32-bit words: [block][step][vector][lane], a word holding
// a step's 4 (int8, offset by 128), 2 (int16) or 1 (float32) dimensions. Vector v and lane l of block b are the code (b
// · lanes + l) · group + v, so that a lane's codes are neighbours.
struct PackedCodebook {
  const Search* search = nullptr;
  Filter filter = Filter::exact;
  int64_t lanes = 0, group = 0, blocks = 0, steps = 0;
  double step = 1, inverse_step = 1;
  Extent extent;
  Deviation deviation;
  const double* scales = nullptr;  // [codes]: what a code is multiplied by; −1 where it has NaN or infinity
  void* words = nullptr;
  float* half_squares = nullptr;  // [blocks][group][lanes]: ½‖ĉ‖² in units of step², 0 unless l2; +inf: no code
};

// Tiles of rows that a filter searches, over torch's threads. A filter that lets too many codes through gives up, and
// the next one does the tiles that are left.
struct FilteredSearch {
  PackedCodebook packed;
  int64_t rows_of_tile = 0, tiles = 0;
  bool may_give_up = false;
  uint8_t* taken = nullptr;          // [tiles]: done, or in the hands of a thread
  int64_t rows = 0, candidates = 0;  // searched so far, and how many codes they had scored one by one
  bool gave_up = false;
};

}  // namespace visgen
