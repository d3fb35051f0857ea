// The family `solve`: what its kernels are told.
#pragma once

#include "../common/layout.h"
#include "../common/partition.h"

namespace visgen {

constexpr int kMostOutputs = 3, kMostSlots = 4, kOperands = 8, kTableColumns = 32;

// A row of a sampler's table, as visgen_fast/reference/solve.py describes it: 32 numbers. A group of eight weighs
// (x, x̂, last output, slots 0 to 3, noise).
struct TableColumns {
  static constexpr int u = 1, v = 2, clamp = 3, l0 = 4, l1 = 5, slot_a = 6, slot_b = 7;
  static constexpr int next = 8, write_a = 16, write_b = 24;
  static constexpr int of_x = 0, of_denoised = 1, of_output = 2, of_slots = 3, of_noise = 7;
};

struct StepParameters {
  SampleShape shape;
  Partition partition{0, 0, 0, 1};
  bool in_double = false;
  const double* table = nullptr;  // [table_rows, 32]
  int64_t table_rows = 0;
  const int64_t* steps = nullptr;  // the row of each row_size elements; absent: `step` for all
  int64_t step = 0, row_size = 0;
  const double* weights = nullptr;  // [weight_rows, weight_samples, outputs], each count the full one or 1
  int64_t weight_rows = 1, weight_samples = 1;
  const int64_t* seeds = nullptr;  // [samples]
  uint64_t stream = 0;             // of row 0; the next rows have the next ones
  const void* limit = nullptr;     // [samples], real: x̂ is held within and divided by it
  int output_count = 1;
  Operand x, outputs[kMostOutputs], slots[kMostSlots], noise, variance;
  Operand next;  // may be x's memory, and slots are written: a kernel reads all of its elements before it writes any
};

struct ProductsParameters {
  static constexpr int kMost = 1 + 1 + kMostOutputs;  // 1, x, outputs
  SampleShape shape;
  Partition partition{0, 0, 0, 1};
  bool in_double = false;
  int count = 0;  // of signals
  Operand signals[kMost - 1];
  double* partial_sums = nullptr;  // [units, (count + 1)²], the lower triangle of the products
};

}  // namespace visgen
