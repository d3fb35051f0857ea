// Calls of the family `multiscale`.
#pragma once

#include <algorithm>
#include <cmath>

#include "diffuse_call.h"
#include "multiscale.h"

namespace visgen {

using OptionalType = std::optional<ScalarType>;

// What the loss is, as the schema says it.
struct LossOptions {
  const std::vector<int64_t>& scales;
  const std::vector<double>& scale_weights;  // empty: scale / √(height·width)
  int64_t penalty;
  double penalty_scale;
  int64_t reduction;
};

// The last two dimensions are a plane. Where there is no pooling, all of a sample is one row.
inline void set_planes(MultiscaleParameters& p, const Tensor& pred, const LossOptions& options) {
  const int64_t samples = pred.size(0), elements = samples ? pred.numel() / samples : 0;
  p.width = elements;
  if (options.scales.size() == 1 && options.scales[0] == 1) return;
  check(pred.dim() >= 4, "scales must be (1,) where pred has fewer than four dimensions");
  p.height = pred.size(-2), p.width = pred.size(-1);
  p.planes = elements ? elements / (p.height * p.width) : 0;
}

// The levels that the scales need: a power of two is pooled from the one below it, others from their largest divisor.
inline void set_levels(MultiscaleParameters& p, const std::vector<int64_t>& scales) {
  int64_t whole = 1;  // the smallest power of two whose window is all of a plane
  while (whole < p.height || whole < p.width) whole *= 2;
  std::vector<int64_t> sizes{1};
  for (const int64_t scale : scales) {
    const int64_t size = std::min(scale, whole);
    sizes.push_back(size);
    for (int64_t half = size / 2; half > 1 && (size & (size - 1)) == 0; half /= 2) sizes.push_back(half);
  }
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  p.level_count = static_cast<int>(sizes.size());
  for (int i = 1; i < p.level_count; ++i) {
    Level& level = p.levels[i];
    level.size = sizes[i];
    for (int j = 0; j < i; ++j) {
      if (sizes[i] % sizes[j] == 0) level.parent = j;
    }
    level.ratio = sizes[i] / sizes[level.parent];
  }
}

inline void set_scales(MultiscaleParameters& p, const Tensor& pred, const LossOptions& options) {
  const std::vector<int64_t>& scales = options.scales;
  const std::vector<double>& weights = options.scale_weights;
  check(scales.size() >= 1 && scales.size() <= kMostScales, "scales must hold 1 to ", kMostScales, " scales");
  check(weights.empty() || weights.size() == scales.size(), "scale_weights must have a number for each scale");
  for (const int64_t scale : scales) check(scale >= 1, "scales must be at least 1, got ", scale);
  set_planes(p, pred, options);
  set_levels(p, scales);
  p.scale_count = static_cast<int>(scales.size());
  const double samples = p.reduction == Reduction::mean ? static_cast<double>(pred.size(0)) : 1;
  for (int i = 0; i < p.scale_count; ++i) {
    int at = 0;
    while (at + 1 < p.level_count && p.levels[at].size < scales[i]) ++at;
    Level& level = p.levels[at];
    const int64_t down = (p.height + level.size - 1) / level.size, across = (p.width + level.size - 1) / level.size;
    const double windows = static_cast<double>(p.planes) * down * across;
    const double weight = weights.empty() ? scales[i] / std::sqrt(double(p.height) * p.width) : weights[i];
    p.scales[i] = {at, windows, weight};
    level.is_scale = true;
    level.factor += weight / windows / samples;
  }
}

template <class Device>
struct MultiscaleOperations {
  static std::tuple<Tensor, Tensor, Tensor> multiscale_loss(const Tensor& pred, const Tensor& target,
                                                            const OptionalTensor& weight, std::vector<int64_t> scales,
                                                            std::vector<double> scale_weights, int64_t penalty,
                                                            double penalty_scale, int64_t reduction,
                                                            OptionalType gradient_dtype) {
    MultiscaleParameters p;
    p.in_double = is_double(pred) || is_double(target);
    Batch batch(pred);
    batch.add(target, p.target, "target");
    return loss(p, batch, pred, weight, {scales, scale_weights, penalty, penalty_scale, reduction}, gradient_dtype);
  }

  static std::tuple<Tensor, Tensor, Tensor> denoising_loss(
      const Tensor& pred, const Tensor& x, const Tensor& coefficients, const OptionalTensor& seeds,
      const OptionalTensor& endpoint, const OptionalTensor& noise, const OptionalTensor& weight, int64_t stream,
      std::vector<int64_t> scales, std::vector<double> scale_weights, int64_t penalty, double penalty_scale,
      int64_t reduction, OptionalType gradient_dtype) {
    const DiffuseInputs in{x, coefficients, seeds, endpoint, noise, stream};
    MultiscaleParameters p;
    Batch batch(pred);
    set_inputs(p, in);
    add_signals(in, batch, p);
    return loss(p, batch, pred, weight, {scales, scale_weights, penalty, penalty_scale, reduction}, gradient_dtype);
  }

  // Gradients of (pred, target, weight), empty where `needs` says no; the last is asked for elsewhere.
  static std::tuple<Tensor, Tensor, Tensor> multiscale_loss_backward(
      const Tensor& grad_loss, const Tensor& pred, const Tensor& target, const OptionalTensor&, const Tensor& gradient, std::vector<int64_t>, std::vector<double>, int64_t, double, int64_t,
      std::vector<bool> needs) {
    check(needs.size() == 3 && !needs[2], "needs must say yes or no for each of pred and target, and no for weight");
    OptionalTensor grad_pred, grad_target;
    if (needs[0]) grad_pred = empty_like(pred, pred.scalar_type());
    if (needs[1]) grad_target = empty_like(target, target.scalar_type());
    scale_gradient(grad_loss, gradient, is_double(pred) || is_double(target), grad_pred, grad_target);
    const auto given = [&](const OptionalTensor& result) { return result ? *result : nothing_on(pred); };
    return {given(grad_pred), given(grad_target), nothing_on(pred)};
  }

  // Gradients of (pred, x, coefficients, endpoint, noise, weight), likewise.
  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> denoising_loss_backward(
      const Tensor& grad_loss, const Tensor& pred, const Tensor& x, const Tensor& coefficients,
      const OptionalTensor& seeds, const OptionalTensor& endpoint, const OptionalTensor& noise,
      const OptionalTensor&, const Tensor& gradient, int64_t stream, std::vector<int64_t>, std::vector<double>,
      int64_t, double, int64_t, std::vector<bool> needs) {
    check(needs.size() == 6 && !needs[5],
          "needs must say yes or no for each of pred, x, coefficients, endpoint and noise, and no for weight");
    const std::vector<bool> of_target(needs.begin() + 1, needs.end() - 1);
    const bool any = std::find(of_target.begin(), of_target.end(), true) != of_target.end();
    OptionalTensor grad_pred, grad_target;
    if (needs[0]) grad_pred = empty_like(pred, pred.scalar_type());
    if (any) grad_target = empty_like(x, real_of(x));
    scale_gradient(grad_loss, gradient, is_double(x), grad_pred, grad_target);
    auto [grad_x, grad_coefficients, grad_endpoint, grad_noise] = DiffuseOperations<Device>::diffuse_backward(
        std::nullopt, grad_target, x, coefficients, seeds, endpoint, noise, stream, of_target);
    return {grad_pred ? *grad_pred : nothing_on(pred), grad_x, grad_coefficients, grad_endpoint, grad_noise,
            nothing_on(pred)};
  }

  static void add_to(Library& m) {
    m.impl("multiscale_loss", TORCH_BOX(&multiscale_loss));
    m.impl("multiscale_loss_backward", TORCH_BOX(&multiscale_loss_backward));
    m.impl("denoising_loss", TORCH_BOX(&denoising_loss));
    m.impl("denoising_loss_backward", TORCH_BOX(&denoising_loss_backward));
  }

 private:
  // The loss, its terms, and its gradient into pred, empty where no type for it is given.
  static std::tuple<Tensor, Tensor, Tensor> loss(MultiscaleParameters& p, Batch& batch, const Tensor& pred,
                                                 const OptionalTensor& weight, const LossOptions& options,
                                                 OptionalType gradient_dtype) {
    floating_dtype_of(pred.scalar_type(), "pred");
    check(options.penalty >= 0 && options.penalty <= 2, "penalty must be 0, 1 or 2, got ", options.penalty);
    check(options.reduction >= 0 && options.reduction <= 2, "reduction must be 0, 1 or 2, got ", options.reduction);
    p.penalty = static_cast<Penalty>(options.penalty);
    p.penalty_scale = options.penalty_scale;
    p.reduction = static_cast<Reduction>(options.reduction);
    set_scales(p, pred, options);
    batch.add(pred, p.pred, "pred");
    Tensor gradient = nothing_on(pred);
    if (gradient_dtype) {
      floating_dtype_of(*gradient_dtype, "gradient_dtype");
      gradient = empty_like(pred, *gradient_dtype);
      batch.add(gradient, p.gradient, "gradient");
    }
    if (weight) {
      batch.add_broadcast(*weight, p.weight, "weight");
      for (int64_t d = p.planes * p.height == 1 ? 1 : pred.dim() - 2; d < pred.dim(); ++d) {
        p.weight_varies |= weight->size(d) != 1;
      }
    }
    const int64_t samples = pred.size(0);
    const ScalarType real = real_type_of(p.in_double);
    Tensor terms = zeros_on(pred, {samples, p.scale_count}, real);
    Tensor result = zeros_on(pred, p.reduction == Reduction::none ? Sizes{samples} : Sizes{}, real);
    p.terms = terms.mutable_data_ptr();
    p.loss = result.mutable_data_ptr();
    p.shape = batch.merge();
    if (pred.numel() > 0) Device::run(p, pred);
    return {result, terms, gradient};
  }

  static void scale_gradient(const Tensor& grad_loss, const Tensor& gradient, bool in_double,
                             const OptionalTensor& grad_pred, const OptionalTensor& grad_target) {
    ScaledGradientParameters p;
    p.in_double = in_double;
    p.upstream_a_sample = grad_loss.dim() > 0;
    const Sizes sizes = p.upstream_a_sample ? Sizes{gradient.size(0)} : Sizes{};
    p.upstream = data_of(grad_loss, gradient, sizes, real_type_of(in_double), "grad_loss");
    floating_dtype_of(gradient.scalar_type(), "gradient");
    Batch batch(gradient);
    batch.add(gradient, p.gradient, "gradient");
    batch.add(grad_pred, p.grad_pred, "pred");
    batch.add(grad_target, p.grad_target, "target");
    p.shape = batch.merge();
    if (gradient.numel() > 0) Device::run(p, gradient);
  }
};

}  // namespace visgen
