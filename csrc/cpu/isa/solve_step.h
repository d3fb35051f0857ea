// What one row of a sampler's table says to do with each element, on one instruction set.
#pragma once

#include "../../ops/solve.h"

namespace visgen::VISGEN_ISA {

constexpr TableColumns kAt;

// What a step reads from memory. Outputs and slots stand in their order.
enum Source { kState, kOutputs, kSlots = kOutputs + kMostOutputs, kNoise = kSlots + kMostSlots, kSources };

// Σ coefficient·source over the sources whose coefficient is not 0, for what the others hold is not read; and, for a
// result, its coefficient of the denoised image.
template <class Real>
struct Sum {
  int count = 0, sources[kOperands];
  Real coefficients[kOperands], of_denoised = 0;

  void add(int source, double coefficient) {
    const Real rounded = static_cast<Real>(coefficient);
    if (rounded == 0) return;
    sources[count] = source;
    coefficients[count++] = rounded;
  }
};

// What one row of the table, the sample's weights and its limit say to do with each element.
template <class Real>
struct Step {
  int64_t row;
  Real clamp = 0, limit = 0, l0 = 0, l1 = 0;
  Sum<Real> denoised, results[3];  // the next state and the slots written
  const Operand* places[3];        // of the results
  int result_count = 0;
  bool reads[kSources] = {}, denoises = false;

  Step(const StepParameters& p, int64_t sample, int64_t row) : row(row) {
    const double* numbers = p.table + row * kTableColumns;
    clamp = static_cast<Real>(numbers[kAt.clamp]);
    l0 = static_cast<Real>(numbers[kAt.l0]), l1 = static_cast<Real>(numbers[kAt.l1]);
    limit = p.limit ? static_cast<const Real*>(p.limit)[sample] : Real(0);
    add_result(p, p.next, numbers + kAt.next);
    const int slots[] = {static_cast<int>(numbers[kAt.slot_a]), static_cast<int>(numbers[kAt.slot_b])};
    if (slots[0] >= 0) add_result(p, p.slots[slots[0]], numbers + kAt.write_a);
    if (slots[1] >= 0) add_result(p, p.slots[slots[1]], numbers + kAt.write_b);
    if (denoises) add_denoised(p, sample);
  }

  // With the denoised image, before it is clamped, as its only result.
  static Step to_denoised(const StepParameters& p, int64_t sample, int64_t row) {
    Step step(row);
    step.results[0].of_denoised = 1;
    step.denoises = true;
    step.add_denoised(p, sample);
    return step;
  }

 private:
  explicit Step(int64_t row) : row(row) {}

  void add_denoised(const StepParameters& p, int64_t sample) {
    const double* numbers = p.table + row * kTableColumns;
    denoised.add(kState, numbers[kAt.u]);
    for (int j = 0; j < p.output_count && numbers[kAt.v] != 0; ++j) {
      denoised.add(kOutputs + j, numbers[kAt.v] * weight_of(p, sample, j));
    }
    mark(denoised);
  }

  double weight_of(const StepParameters& p, int64_t sample, int output) const {
    if (!p.weights) return output == 0 ? 1 : 0;
    const int64_t at = (p.weight_rows > 1 ? row : 0) * p.weight_samples + (p.weight_samples > 1 ? sample : 0);
    return p.weights[at * p.output_count + output];
  }

  void add_result(const StepParameters& p, const Operand& place, const double* coefficients) {
    Sum<Real>& sum = results[result_count];
    sum.add(kState, coefficients[kAt.of_x]);
    sum.of_denoised = static_cast<Real>(coefficients[kAt.of_denoised]);
    denoises = denoises || sum.of_denoised != 0;
    sum.add(kOutputs + p.output_count - 1, coefficients[kAt.of_output]);
    for (int k = 0; k < kMostSlots; ++k) sum.add(kSlots + k, coefficients[kAt.of_slots + k]);
    sum.add(kNoise, coefficients[kAt.of_noise]);
    mark(sum);
    places[result_count++] = &place;
  }

  void mark(const Sum<Real>& sum) {
    for (int k = 0; k < sum.count; ++k) reads[sum.sources[k]] = true;
  }
};

}  // namespace visgen::VISGEN_ISA
