// The family `modulate`: what its kernels are told.
#pragma once

#include "operand_rows.h"

namespace visgen {

// What modulates rows, each the sum of up to two tensors: r = x + gate·branch, y = (n·weight + bias)·(1 + scale) +
// shift.
enum Slot { kGate, kScale, kShift, kWeight, kBias, kSlots };
constexpr int kTerms = 2;

// The last dimension of the shape is a row; those before it number the rows.
struct Modulation {
  SampleShape shape;
  Partition partition{0, 0, 0, 1};  // of rows
  bool in_double = false, is_rms = false;
  double eps = 0;
  int64_t rows = 0, columns = 1;
  Operand branch;                     // absent: nothing is added
  Operand slot[kSlots][kTerms];       // absent in both terms: 1 for gate and weight, else 0
  void* mean = nullptr;               // [rows], in the arithmetic's type; absent for root mean squares
  void* inverse_deviation = nullptr;  // [rows], likewise
};

struct ModulateParameters : Modulation {
  Operand x;
  Operand residual, y;  // outputs; without a branch the first is absent
};

// Gradients of what rows share are added up in double: first for each unit of rows, then over the units.
struct ModulateBackwardParameters : Modulation {
  Operand residual;                     // what was normalized
  Operand grad_residual, grad_y;        // either may be absent: zero
  Operand grad_x, grad_branch;          // outputs, absent where nobody asks
  Operand gradient[kSlots][kTerms];     // likewise
  bool is_shared[kSlots][kTerms] = {};  // whether rows share it, so that it is a sum
  int sum_of[kSlots] = {};              // place of a slot among the sums, −1 for none
  int sums = 0;
  int outer = 0;                   // of the dimensions of rows: within those behind them rows share all sums
  double* partial_sums = nullptr;  // [units, sums, columns]
};

}  // namespace visgen
