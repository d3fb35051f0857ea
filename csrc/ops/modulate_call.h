// Calls of the family `modulate`.
#pragma once

#include <algorithm>

#include "../common/registration.h"
#include "modulate.h"
#include "tensors.h"

namespace visgen {

// The tensors that modulate, as the schema gives them: term by term of each slot.
using Modulations = std::array<std::array<const OptionalTensor*, kTerms>, kSlots>;

constexpr const char* kSlotNames[kSlots] = {"gate", "scale", "shift", "weight", "bias"};

inline const OptionalTensor kNoTensor;

// Units of about so many elements, but of at least so many rows, all of one run of rows and of about one size.
inline void set_units(Modulation& p, int64_t rows_of_run, int64_t elements, int64_t least_rows) {
  const int64_t most = std::max(least_rows, elements / std::max<int64_t>(p.columns, 1));
  const int64_t units = (rows_of_run + most - 1) / most;
  p.partition = Partition::within_rows(1, p.rows, rows_of_run, (rows_of_run + units - 1) / units);
}

// The rows that share all sums follow one another in runs.
inline int64_t rows_of_run(const ModulateBackwardParameters& p) {
  int64_t rows = 1;
  for (int d = p.outer; d < p.shape.dimensions - 1; ++d) rows *= p.shape.sizes[d];
  return rows;
}

// For a Device whose partition is cut: where it adds up.
inline OptionalTensor add_partial_sums(ModulateBackwardParameters& p, const Tensor& like) {
  if (p.sums == 0) return std::nullopt;
  return empty_for(p.partial_sums, like, {p.partition.units(), p.sums, p.columns}, ScalarType::Double);
}

// Calls body(sum) for each gradient that is one.
template <class Body>
void for_each_sum(const ModulateBackwardParameters& p, Body body) {
  for (int slot = 0; slot < kSlots; ++slot) {
    for (int term = 0; term < kTerms; ++term) {
      if (!p.is_shared[slot][term]) continue;
      SharedGradient sum;
      sum.shape = p.shape, sum.outer = p.outer, sum.in_double = p.in_double, sum.columns = p.columns;
      sum.gradient = p.gradient[slot][term];
      for (int d = 0; d < p.outer; ++d) (sum.gradient.strides[d] ? sum.groups : sum.members) *= p.shape.sizes[d];
      sum.units_per_run = p.partition.units_per_row;
      sum.unit_stride = p.sums * p.columns;
      sum.partial_sums = p.partial_sums + p.sum_of[slot] * p.columns;
      body(sum);
    }
  }
}

template <class Device>
struct ModulateOperations {
  static std::tuple<Tensor, Tensor, Tensor> modulated_norm(const Tensor& x, const OptionalTensor& scale,
                                                           const OptionalTensor& scale_table,
                                                           const OptionalTensor& shift,
                                                           const OptionalTensor& shift_table,
                                                           const OptionalTensor& weight, const OptionalTensor& bias,
                                                           int64_t norm, double eps) {
    auto [_, y, mean, inverse_deviation] = forward(x, kNoTensor,
                                                   {{{&kNoTensor, &kNoTensor},
                                                     {&scale, &scale_table},
                                                     {&shift, &shift_table},
                                                     {&weight, &kNoTensor},
                                                     {&bias, &kNoTensor}}},
                                                   norm, eps);
    return {y, mean, inverse_deviation};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> gated_residual_norm(
      const Tensor& x, const Tensor& branch, const OptionalTensor& gate, const OptionalTensor& gate_table,
      const OptionalTensor& scale, const OptionalTensor& scale_table, const OptionalTensor& shift,
      const OptionalTensor& shift_table, const OptionalTensor& weight, const OptionalTensor& bias, int64_t norm,
      double eps) {
    auto [residual, y, mean, inverse_deviation] = forward(x, branch,
                                                          {{{&gate, &gate_table},
                                                            {&scale, &scale_table},
                                                            {&shift, &shift_table},
                                                            {&weight, &kNoTensor},
                                                            {&bias, &kNoTensor}}},
                                                          norm, eps);
    return {*residual, y, mean, inverse_deviation};
  }

  // Gradients of (x, scale, scale_table, shift, shift_table, weight, bias), empty where `needs` says no.
  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> modulated_norm_backward(
      const OptionalTensor& grad_y, const Tensor& x, const OptionalTensor& scale, const OptionalTensor& scale_table,
      const OptionalTensor& shift, const OptionalTensor& shift_table, const OptionalTensor& weight,
      const OptionalTensor& bias, const Tensor& mean, const Tensor& inverse_deviation, int64_t norm, double,
      std::vector<bool> needs) {
    check(needs.size() == 7, "needs must say yes or no for each of the seven inputs");
    const std::vector<bool> all{needs[0], false,    false,    false,    needs[1],
                                needs[2], needs[3], needs[4], needs[5], needs[6]};
    const auto g = backward(kNoTensor, grad_y, x, kNoTensor,
                            {{{&kNoTensor, &kNoTensor},
                              {&scale, &scale_table},
                              {&shift, &shift_table},
                              {&weight, &kNoTensor},
                              {&bias, &kNoTensor}}},
                            x, mean, inverse_deviation, norm, all);
    return {g[0], g[4], g[5], g[6], g[7], g[8], g[9]};
  }

  // Gradients of (x, branch, gate, gate_table, scale, scale_table, shift, shift_table, weight, bias), likewise.
  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>
  gated_residual_norm_backward(const OptionalTensor& grad_residual, const OptionalTensor& grad_y, const Tensor& x,
                               const Tensor& branch, const OptionalTensor& gate, const OptionalTensor& gate_table,
                               const OptionalTensor& scale, const OptionalTensor& scale_table,
                               const OptionalTensor& shift, const OptionalTensor& shift_table,
                               const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& residual,
                               const Tensor& mean, const Tensor& inverse_deviation, int64_t norm, double,
                               std::vector<bool> needs) {
    check(needs.size() == 10, "needs must say yes or no for each of the ten inputs");
    const auto g = backward(grad_residual, grad_y, x, branch,
                            {{{&gate, &gate_table},
                              {&scale, &scale_table},
                              {&shift, &shift_table},
                              {&weight, &kNoTensor},
                              {&bias, &kNoTensor}}},
                            residual, mean, inverse_deviation, norm, needs);
    return {g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9]};
  }

  VISGEN_OPERATIONS(modulated_norm, modulated_norm_backward, gated_residual_norm, gated_residual_norm_backward)

 private:
  static std::tuple<OptionalTensor, Tensor, Tensor, Tensor> forward(const Tensor& x, const OptionalTensor& branch,
                                                                    const Modulations& modulations, int64_t norm,
                                                                    double eps) {
    ModulateParameters p;
    Batch batch(x, Kind::rows, {{x, p.x, "x"}});
    p.eps = eps;
    set_inputs(p, batch, x, branch, modulations, norm);
    OptionalTensor residual;
    if (branch) residual = empty_like(x, x.scalar_type());
    const Tensor y = empty_like(x, x.scalar_type());
    batch.add(residual, p.residual, "residual");
    batch.add({y, p.y, "y"});
    const Sizes rows = sizes_of_rows(x);
    const Tensor mean = p.is_rms ? empty_on(x, {0}, real_of(x)) : empty_for(p.mean, x, rows, real_of(x));
    const Tensor inverse_deviation = empty_for(p.inverse_deviation, x, rows, real_of(x));
    p.shape = batch.merge();
    if (x.numel() > 0) Device::run(p, x);
    return {residual, y, mean, inverse_deviation};
  }

  static std::array<Tensor, 10> backward(const OptionalTensor& grad_residual, const OptionalTensor& grad_y,
                                         const Tensor& x, const OptionalTensor& branch, const Modulations& modulations,
                                         const Tensor& residual, const Tensor& mean, const Tensor& inverse_deviation,
                                         int64_t norm, const std::vector<bool>& needs) {
    ModulateBackwardParameters p;
    Batch batch(x, Kind::rows, {{residual, p.residual, "residual"}});
    set_inputs(p, batch, x, branch, modulations, norm);
    floating_dtype_of(residual.scalar_type(), "residual");
    if (!p.is_rms) p.mean = data_of(mean, x, sizes_of_rows(x), real_of(x), "mean");
    p.inverse_deviation = data_of(inverse_deviation, x, sizes_of_rows(x), real_of(x), "inverse_deviation");
    batch.add(grad_residual, p.grad_residual, "grad_residual");
    batch.add(grad_y, p.grad_y, "grad_y");
    const auto gradient = [&](int place, const OptionalTensor& of) -> OptionalTensor {
      if (!needs[place]) return std::nullopt;
      check(of.has_value(), "needs must not ask for the gradient of what is not given");
      return empty_like(*of, of->scalar_type());
    };
    std::array<OptionalTensor, 10> found{gradient(0, x), gradient(1, branch)};
    batch.add(found[0], p.grad_x, "x");
    batch.add(found[1], p.grad_branch, "branch");
    for (int slot = 0, place = 2; slot < kSlots; ++slot) {
      for (int term = 0; term < (slot < kWeight ? kTerms : 1); ++term, ++place) {
        found[place] = gradient(place, *modulations[slot][term]);
        if (!found[place]) continue;
        batch.add_broadcast(*found[place], p.gradient[slot][term], kSlotNames[slot]);
        if (x.numel() == 0) torch::stable::zero_(*found[place]);
      }
    }
    p.shape = batch.merge();
    set_sums(p);
    if (x.numel() > 0) Device::run(p, x);
    const auto result = [&](int place) { return or_nothing(found[place], x); };
    return {result(0), result(1), result(2), result(3), result(4),
            result(5), result(6), result(7), result(8), result(9)};
  }

  static void set_inputs(Modulation& p, Batch& batch, const Tensor& x, const OptionalTensor& branch,
                         const Modulations& modulations, int64_t norm) {
    floating_dtype_of(x.scalar_type(), "x");
    check(norm == 0 || norm == 1, "norm must be 0 or 1, got ", norm);
    p.in_double = is_double(x);
    p.is_rms = norm == 1;
    p.columns = x.size(-1);
    p.rows = p.columns ? x.numel() / p.columns : 0;
    batch.add(branch, p.branch, "branch");
    if (branch) floating_dtype_of(branch->scalar_type(), "branch");
    for (int slot = 0; slot < kSlots; ++slot) {
      for (int term = 0; term < kTerms; ++term) {
        const OptionalTensor& tensor = *modulations[slot][term];
        if (tensor) batch.add_broadcast(*tensor, p.slot[slot][term], kSlotNames[slot]);
      }
    }
  }

  // Which gradients are sums, and of how many dimensions runs of rows are numbered.
  static void set_sums(ModulateBackwardParameters& p) {
    for (int slot = 0; slot < kSlots; ++slot) {
      p.sum_of[slot] = -1;
      for (int term = 0; term < kTerms; ++term) {
        const Operand& gradient = p.gradient[slot][term];
        if (!gradient.data) continue;
        int outer = 0;
        for (int d = 0; d < p.shape.dimensions - 1; ++d) {
          if (gradient.strides[d]) {
            outer = d + 1;
          } else {
            p.is_shared[slot][term] = true;
          }
        }
        if (!p.is_shared[slot][term]) continue;
        p.outer = std::max(p.outer, outer);
        if (p.sum_of[slot] < 0) p.sum_of[slot] = p.sums++;
      }
    }
  }

  static Sizes sizes_of_rows(const Tensor& x) {
    Sizes sizes = sizes_of(x);
    sizes.pop_back();
    return sizes;
  }
};

}  // namespace visgen
