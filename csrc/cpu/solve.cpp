// The family `solve` on the CPU.
#include "../ops/solve_call.h"

#include "device.h"

namespace visgen {
namespace {

int64_t rows_of(const StepParameters& p) { return p.steps ? p.shape.samples * (p.shape.elements / p.row_size) : 1; }

// What kernels could only answer with NaN.
const double* row_at(const StepParameters& p, int64_t i) {
  const int64_t step = p.steps ? p.steps[i] : p.step;
  check(0 <= step && step < p.table_rows, "step must lie in [0, ", p.table_rows, "), the rows of table, got ", step);
  return p.table + step * kTableColumns;
}

void check_rows(const StepParameters& p) {
  constexpr TableColumns at;
  for (int64_t i = 0; i < rows_of(p); ++i) {
    const double* row = row_at(p, i);
    const int64_t step = (row - p.table) / kTableColumns;
    const bool noisy = row[at.next + at.of_noise] != 0 || (row[at.slot_a] >= 0 && row[at.write_a + at.of_noise] != 0) ||
                       (row[at.slot_b] >= 0 && row[at.write_b + at.of_noise] != 0);
    check(!noisy || p.noise.data || p.seeds, "row ", step, " of table adds noise: seeds or noise must be given");
    for (const int column : {at.slot_a, at.slot_b}) {
      const int slot = static_cast<int>(row[column]);
      check(slot < kMostSlots && (slot < 0 || p.slots[slot].data), "row ", step, " of table writes slot ", slot,
            ", which is not given");
    }
    for (int k = 0; k < kMostSlots; ++k) {
      const bool read = row[at.next + at.of_slots + k] != 0 ||
                        (row[at.slot_a] >= 0 && row[at.write_a + at.of_slots + k] != 0) ||
                        (row[at.slot_b] >= 0 && row[at.write_b + at.of_slots + k] != 0);
      check(!read || p.slots[k].data, "row ", step, " of table reads slot ", k, ", which is not given");
    }
  }
}

void check_limits(const StepParameters& p) {
  for (int64_t sample = 0; p.limit && sample < p.shape.samples; ++sample) {
    const double limit = p.in_double ? static_cast<const double*>(p.limit)[sample]
                                     : static_cast<double>(static_cast<const float*>(p.limit)[sample]);
    check(!(limit <= 0), "limit must be positive, got ", limit);  // that of a sample with NaN is NaN
  }
}

// By what a pass counted.
void choose_digits(const QuantileParameters& p, int64_t sample) {
  uint32_t* counts = p.counts + sample * p.kCounts;
  QuantileParameters::Found* found = p.found + 2 * sample;
  const bool together = p.is_first_pass() || found[0].key == found[1].key;
  for (int which = 0; which < 2; ++which) {
    if (p.is_first_pass()) found[which] = first_of(p, which, counts[p.kNaN]);
    const uint32_t* of_digit = counts + (together ? 0 : which * p.kBins);
    uint64_t digit = 0;
    while (found[which].rank >= of_digit[digit]) found[which].rank -= of_digit[digit++];
    found[which].key |= digit << p.shift;
  }
  std::fill(counts, counts + p.kCounts, 0);
}

struct Solve {
  static void run(StepParameters p, const Tensor&) {
    check_limits(p);
    check_rows(p);
    p.partition = Partition::within_rows(p.shape.samples, p.shape.elements, p.row_size, kUnit);
    run_units(p);
  }

  static void run(QuantileParameters p, const Tensor& x) {
    for (int64_t i = 0; i < rows_of(p); ++i) row_at(p, i);
    p.partition = Partition::within_rows(p.shape.samples, p.shape.elements, p.row_size, kUnit);
    const QuantileScratch scratch = quantile_scratch(p, x);
    for_each_digit(p, [&] {
      run_units(p);
      for (int64_t sample = 0; sample < p.shape.samples; ++sample) choose_digits(p, sample);
    });
    for (int64_t sample = 0; sample < p.shape.samples; ++sample) {
      p.in_double ? write_results<double>(p, sample) : write_results<float>(p, sample);
    }
  }

  static void run(ProductsParameters p, const Tensor& products) {
    p.partition = Partition(p.shape.samples, p.shape.elements, p.shape.elements, kUnit);
    const Tensor sums = partial_products(p, products);
    run_units(p);
    const int size = (p.count + 1) * (p.count + 1);
    double* out = products.mutable_data_ptr<double>();
    for (int64_t sample = 0; sample < p.shape.samples; ++sample) {
      double* total = out + sample * size;
      for (int64_t unit = 0; unit < p.partition.units_per_sample; ++unit) {
        const double* part = p.partial_sums + (sample * p.partition.units_per_sample + unit) * size;
        for (int i = 0; i < size; ++i) total[i] += part[i];
      }
      for (int i = 0; i <= p.count; ++i) {
        for (int j = i + 1; j <= p.count; ++j) total[i * (p.count + 1) + j] = total[j * (p.count + 1) + i];
      }
    }
  }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { SolveOperations<Solve>::add_to(m); }

}  // namespace visgen
