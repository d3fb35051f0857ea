// Calls of the family `solve`.
#pragma once

#include <algorithm>
#include <cmath>

#include "../common/registration.h"
#include "overlap.h"
#include "solve.h"
#include "tensors.h"

namespace visgen {

template <class Device>
struct SolveOperations {
  // Writes the next state to `out`, or over x, and what the row says over the slots.
  static void solver_step_(const Tensor& x, const Tensor& output, const OptionalTensor& output_1,
                           const OptionalTensor& output_2, const Tensor& table, const OptionalTensor& steps,
                           int64_t step, const OptionalTensor& slot_0, const OptionalTensor& slot_1,
                           const OptionalTensor& slot_2, const OptionalTensor& slot_3, const OptionalTensor& weights,
                           const OptionalTensor& seeds, const OptionalTensor& noise, int64_t stream,
                           const OptionalTensor& variance, const OptionalTensor& limit, const OptionalTensor& out) {
    StepParameters p;
    check((slot_0 || !slot_1) && (slot_1 || !slot_2) && (slot_2 || !slot_3), "slots must be given in their order");
    Batch batch = outputs_of(p, x, output, output_1, output_2);
    const OptionalTensor* slots[] = {&slot_0, &slot_1, &slot_2, &slot_3};
    constexpr const char* names[] = {"slot 0", "slot 1", "slot 2", "slot 3"};
    for (int k = 0; k < kMostSlots; ++k) batch.add_floating({*slots[k], p.slots[k], names[k]});
    batch.add_floating({noise, p.noise, "noise"});
    batch.add_floating({variance, p.variance, "variance"});
    batch.add_floating({out ? *out : x, p.next, "out"});
    set_rows(p, x, table, steps, step);
    if (weights) set_weights(p, x, *weights);
    p.seeds = seeds_of(seeds, x);
    check(stream >= 0, "stream must be at least 0, got ", stream);
    p.stream = static_cast<uint64_t>(stream);
    p.limit = data_of(limit, x, {x.size(0)}, real_of(x), "limit");
    p.shape = batch.merge();
    if (x.numel() == 0) return;
    refuse_shared_memory(p);
    Device::run(p, x);
  }

  // Per sample, the sums of the products of (1, x, outputs): float64 [samples, n, n].
  static Tensor output_products(const OptionalTensor& x, const Tensor& output, const OptionalTensor& output_1,
                                const OptionalTensor& output_2) {
    ProductsParameters p;
    Batch batch(output);
    for (const OptionalTensor& signal : {x, OptionalTensor(output), output_1, output_2}) {
      if (!signal) continue;
      p.in_double = p.in_double || is_double(*signal);
      batch.add_floating({signal, p.signals[p.count++], "every output, and x,"});
    }
    p.shape = batch.merge();
    Tensor products = torch::stable::new_zeros(output, {output.size(0), p.count + 1, p.count + 1}, ScalarType::Double);
    if (output.numel() > 0) Device::run(p, products);
    return products;
  }

  // The order statistics of |x̂| that the quantile q lies between, and the weight of the second: real [3, samples].
  static Tensor denoised_quantile(const Tensor& x, const Tensor& output, const OptionalTensor& output_1,
                                  const OptionalTensor& output_2, const Tensor& table, const OptionalTensor& steps,
                                  int64_t step, const OptionalTensor& weights, double q) {
    QuantileParameters p;
    Batch batch = outputs_of(p, x, output, output_1, output_2);
    set_rows(p, x, table, steps, step);
    if (weights) set_weights(p, x, *weights);
    p.shape = batch.merge();
    check(x.size(0) == 0 || p.shape.elements > 0, "x must have elements in each sample");
    check(p.shape.elements <= UINT32_MAX, "x must have fewer than 2**32 elements in each sample");
    check(0 <= q && q <= 1, "q must lie in [0, 1], got ", q);
    p.in_double ? set_ranks<double>(p, q) : set_ranks<float>(p, q);
    Tensor results = empty_for(p.results, x, {3, x.size(0)}, real_of(x));
    if (x.numel() > 0) Device::run(p, x);
    return results;
  }

  VISGEN_OPERATIONS(solver_step_, output_products, denoised_quantile)

 private:
  // The state and what networks said of it, all of the same shape.
  static Batch outputs_of(StepParameters& p, const Tensor& x, const Tensor& output, const OptionalTensor& output_1,
                          const OptionalTensor& output_2) {
    p.in_double = is_double(x);
    check(output_1.has_value() || !output_2, "outputs must be given in their order");
    p.output_count = 1 + output_1.has_value() + output_2.has_value();
    Batch batch(x);
    batch.add_floating({x, p.x, "x"});
    batch.add_floating({output, p.outputs[0], "output 0"});
    batch.add_floating({output_1, p.outputs[1], "output 1"});
    batch.add_floating({output_2, p.outputs[2], "output 2"});
    return batch;
  }

  // Where the quantile lies among the sorted numbers, in the arithmetic's type, as torch.quantile has it.
  template <class Real>
  static void set_ranks(QuantileParameters& p, double q) {
    const int64_t last = p.shape.elements - 1;
    const Real place = static_cast<Real>(q) * static_cast<Real>(last), low = std::floor(place);
    p.weight = static_cast<double>(place - low);
    p.ranks[0] = std::min(static_cast<int64_t>(low), last);
    p.ranks[1] = std::min(static_cast<int64_t>(std::ceil(place)), last);
  }

  // A kernel reads an element of every operand before it writes that element, and knows no other order.
  static void refuse_shared_memory(const StepParameters& p) {
    const Operand* written[] = {&p.next, &p.slots[0], &p.slots[1], &p.slots[2], &p.slots[3]};
    const Operand* read[] = {&p.x, &p.outputs[0], &p.outputs[1], &p.outputs[2], &p.noise, &p.variance};
    for (int i = 0; i <= kMostSlots && written[i]->data; ++i) {
      const Span span(*written[i], p.shape);
      bool apart = !span.repeats;
      for (int j = 0; j < i; ++j) apart = apart && !span.meets({*written[j], p.shape});
      check(apart, "x, or out, and the slots are written: each element must have memory of its own");
      for (const Operand* other : read) {
        apart = !other->data || same_elements(*other, *written[i], p.shape) || !span.meets({*other, p.shape});
        check(apart, "outputs, noise and variance must not share memory with what is written: clone them");
      }
    }
  }

  static void set_rows(StepParameters& p, const Tensor& x, const Tensor& table, const OptionalTensor& steps,
                       int64_t step) {
    check(table.dim() == 2, "table must be [rows, ", kTableColumns, "]");
    p.table_rows = table.size(0);
    p.table = data_of<const double>(table, x, {p.table_rows, kTableColumns}, ScalarType::Double, "table");
    const int64_t samples = x.size(0), elements = samples > 0 ? x.numel() / samples : 0;
    p.row_size = elements;
    p.step = step;
    if (!steps) {
      check(0 <= step && step < p.table_rows, "step must lie in [0, ", p.table_rows, "), the rows of table, got ",
            step);
      return;
    }
    check(steps->dim() == 1, "steps must be [rows]");
    const int64_t rows = steps->size(0);
    p.steps = data_of<const int64_t>(*steps, x, {rows}, ScalarType::Long, "steps");
    if (x.numel() == 0) return;
    check(rows > 0 && rows % samples == 0 && elements % (rows / samples) == 0, "steps must have a multiple of ",
          samples, " numbers that divides the elements of x, got ", rows);
    p.row_size = elements / (rows / samples);
  }

  static void set_weights(StepParameters& p, const Tensor& x, const Tensor& weights) {
    check(weights.dim() == 3, "weights must be [rows or 1, samples or 1, outputs]");
    p.weight_rows = weights.size(0), p.weight_samples = weights.size(1);
    check((p.weight_rows == 1 || p.weight_rows == p.table_rows) &&
              (p.weight_samples == 1 || p.weight_samples == x.size(0)),
          "weights must be [1 or ", p.table_rows, ", 1 or ", x.size(0), ", ", p.output_count, "], got [", p.weight_rows,
          ", ", p.weight_samples, ", ", weights.size(2), "]");
    p.weights = data_of<const double>(weights, x, {p.weight_rows, p.weight_samples, p.output_count}, ScalarType::Double,
                                      "weights");
  }
};

// Calls body for each pass, with the digit that it looks for.
template <class Body>
void for_each_digit(QuantileParameters& p, Body body) {
  for (p.above = p.bits(); p.above > 0; p.above = p.shift) {
    p.shift = std::max(p.above - p.kDigitBits, 0);
    body();
  }
}

struct QuantileScratch {
  Tensor found, counts;
};

inline QuantileScratch quantile_scratch(QuantileParameters& p, const Tensor& like) {
  static_assert(sizeof(QuantileParameters::Found) == 2 * sizeof(int64_t));
  const Sizes numbers{p.shape.samples, 2, 2}, counts{p.shape.samples, QuantileParameters::kCounts};
  return {empty_for(p.found, like, numbers, ScalarType::Long), zeros_for(p.counts, like, counts, ScalarType::Int)};
}

// Where the products of each unit are summed up before they are added up in the units' order.
inline Tensor partial_products(ProductsParameters& p, const Tensor& like) {
  Tensor sums = empty_on(like, {p.partition.units(), (p.count + 1) * (p.count + 1)}, ScalarType::Double);
  p.partial_sums = sums.mutable_data_ptr<double>();
  return sums;
}

}  // namespace visgen
