// The family `modulate`: what its kernels are told.
#pragma once

#include "../common/layout.h"
#include "../common/partition.h"

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

// One gradient as the sum over its units.
struct ModulationSum {
  SampleShape shape;
  int outer = 0;
  bool in_double = false;
  int64_t columns = 1;
  int64_t groups = 1, members = 1;  // sums, and runs of rows in each of them
  int64_t units_per_run = 1, unit_stride = 0;
  const double* partial_sums = nullptr;
  Operand gradient;
};

// A member of a group: the number of its run of rows, and where the group's gradient is.
struct Member {
  int64_t run, offset;
};

VISGEN_HOST_DEVICE Member member_at(const ModulationSum& p, int64_t group, int64_t member) {
  Member at{0, 0};
  int64_t place = 1;
  for (int d = p.outer - 1; d >= 0; --d) {
    const int64_t size = p.shape.sizes[d];
    int64_t& rest = p.gradient.strides[d] ? group : member;
    const int64_t outer = divide(rest, size), index = rest - outer * size;
    rest = outer;
    at.run += index * place;
    at.offset += index * p.gradient.strides[d];
    place *= size;
  }
  return at;
}

// The first element of a row.
VISGEN_HOST_DEVICE int64_t row_offset(const Operand& operand, const SampleShape& shape, int64_t row) {
  int64_t offset = 0;
  for (int d = shape.dimensions - 2; d > 0; --d) {
    const int64_t outer = divide(row, shape.sizes[d]);
    offset += (row - outer * shape.sizes[d]) * operand.strides[d];
    row = outer;
  }
  return shape.dimensions > 1 ? offset + row * operand.strides[0] : 0;
}

VISGEN_HOST_DEVICE int64_t column_stride(const Operand& operand, const SampleShape& shape) {
  return operand.strides[shape.dimensions - 1];
}

}  // namespace visgen
