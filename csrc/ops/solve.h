// The family `solve`: what its kernels are told.
#pragma once

#include <cstring>
#include <type_traits>

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

// Two neighbouring order statistics of the magnitudes of x̂ in each sample: the quantile lies between them.
//
// The bits of magnitudes, read as integers, have their order, and NaN lies above all. Both are found digit by digit,
// from the highest on: a pass over x̂, which is made anew, counts the numbers that begin with the digits found by the
// next.
struct QuantileParameters : StepParameters {
  static constexpr int kDigitBits = 11, kBins = 1 << kDigitBits, kNaN = 2 * kBins, kCounts = kNaN + 1;

  struct Found {
    uint64_t key;  // its digits so far, in their places
    int64_t rank;  // of the number that is looked for, among those that begin with them
  };

  int64_t ranks[2] = {0, 0};   // in a whole sample
  double weight = 0;           // of the second number in the quantile
  int above = 0, shift = 0;    // bits below the digits found, and below the one that the pass looks for
  Found* found = nullptr;      // [samples, 2], in the first pass any numbers
  uint32_t* counts = nullptr;  // [samples, kCounts]: by digit, for either number, and of NaN; 0 when a pass begins
  void* results = nullptr;     // [3, samples], real: both numbers and the weight, written after the last pass

  VISGEN_HOST_DEVICE int bits() const { return in_double ? 63 : 31; }
  VISGEN_HOST_DEVICE bool is_first_pass() const { return above == bits(); }
};

template <class Real>
using KeyOf = std::conditional_t<sizeof(Real) == 4, uint32_t, uint64_t>;

template <class Real>
VISGEN_HOST_DEVICE KeyOf<Real> key_of(Real value) {
  KeyOf<Real> bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits & (~KeyOf<Real>(0) >> 1);
}

// A number to look for: the last one, which is NaN, where one is NaN.
VISGEN_HOST_DEVICE QuantileParameters::Found first_of(const QuantileParameters& p, int which, uint32_t nan_count) {
  return {0, nan_count > 0 ? p.shape.elements - 1 : p.ranks[which]};
}

template <class Real>
VISGEN_HOST_DEVICE void write_results(const QuantileParameters& p, int64_t sample) {
  Real* results = static_cast<Real*>(p.results) + sample;
  for (int which = 0; which < 2; ++which) {
    const KeyOf<Real> key = static_cast<KeyOf<Real>>(p.found[2 * sample + which].key);
    memcpy(results + which * p.shape.samples, &key, sizeof(key));
  }
  results[2 * p.shape.samples] = static_cast<Real>(p.weight);
}

// What the numbers that a pass counts begin with.
template <class Real>
VISGEN_HOST_DEVICE KeyOf<Real> head_of(const QuantileParameters& p, int64_t sample, int which) {
  return p.is_first_pass() ? KeyOf<Real>(0) : static_cast<KeyOf<Real>>(p.found[2 * sample + which].key >> p.above);
}

}  // namespace visgen
