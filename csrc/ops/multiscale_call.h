// Calls of the family `multiscale`.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

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
  const int64_t samples = samples_of(pred), elements = samples ? pred.numel() / samples : 0;
  p.width = elements;
  if (options.scales.size() == 1 && options.scales[0] == 1) return;
  check(pred.dim() >= 4, "scales must be (1,) where pred has fewer than four dimensions");
  p.height = pred.size(-2), p.width = pred.size(-1);
  constexpr int64_t kMost = int64_t{1} << 30;
  check(p.height <= kMost && p.width <= kMost, "pred must have at most ", kMost, " rows and columns, to be pooled");
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
    level.size = static_cast<int32_t>(sizes[i]);
    for (int j = 0; j < i; ++j) {
      if (sizes[i] % sizes[j] == 0) level.parent = j;
    }
    level.ratio = level.size / p.levels[level.parent].size;
  }
}

inline void set_scales(MultiscaleParameters& p, const Tensor& pred, const LossOptions& options) {
  const std::vector<int64_t>& scales = options.scales;
  const std::vector<double>& weights = options.scale_weights;
  check(scales.size() >= 1 && scales.size() <= kMostScales, "scales must hold 1 to ", kMostScales, " scales");
  check(weights.empty() || weights.size() == scales.size(), "scale_weights must have a number for each scale");
  check(!weights.empty() || pred.dim() >= 4,
        "scale_weights must not be empty where pred has fewer than four dimensions");
  const double pixels = weights.empty() ? static_cast<double>(pred.size(-2)) * pred.size(-1) : 1;
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
    const double weight = weights.empty() ? scales[i] / std::sqrt(pixels) : weights[i];
    p.scales[i] = {at, windows, weight};
    level.is_scale = true;
    level.factor += weight / windows / samples;
  }
}

// The least common multiple of all windows, as long as it is less than a plane.
inline int64_t unit_of_windows(const MultiscaleParameters& p) {
  int64_t unit = 1;
  for (int i = 1; i < p.level_count && (unit < p.height || unit < p.width); ++i) {
    unit = std::lcm(unit, int64_t{p.levels[i].size});
  }
  return unit;
}

// Tiles of about so many elements, but of at least so many rows; columns are a multiple of the unit for them.
inline Tiles tiles_of(const MultiscaleParameters& p, int64_t elements, int64_t least_rows, int64_t unit_of_columns) {
  const int64_t unit = unit_of_windows(p);
  const auto length = [](int64_t unit, int64_t wanted, int64_t all) {
    return std::min(std::max(unit, wanted / unit * unit), all);
  };
  Tiles tiles;
  const int64_t rows = std::min(std::max(unit, least_rows), p.height);
  tiles.columns = length(std::lcm(unit, unit_of_columns), elements / rows, p.width);
  tiles.rows = length(unit, elements / tiles.columns, p.height);
  tiles.down = (p.height + tiles.rows - 1) / tiles.rows;
  tiles.across = (p.width + tiles.columns - 1) / tiles.columns;
  return tiles;
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
    Batch batch(pred, Kind::samples, {{target, p.target, "target"}});
    return loss(p, batch, pred, weight, {scales, scale_weights, penalty, penalty_scale, reduction}, gradient_dtype);
  }

  static std::tuple<Tensor, Tensor, Tensor> denoising_loss(
      const Tensor& pred, const Tensor& x, const Tensor& coefficients, const OptionalTensor& seeds,
      const OptionalTensor& endpoint, const OptionalTensor& noise, const OptionalTensor& weight, int64_t stream,
      std::vector<int64_t> scales, std::vector<double> scale_weights, int64_t penalty, double penalty_scale,
      int64_t reduction, OptionalType gradient_dtype) {
    MultiscaleParameters p;
    set_inputs(p, {x, coefficients, seeds, endpoint, noise, stream});
    p.in_double = is_double(x);
    Batch batch(pred, Kind::samples, {{x, p.x, "x"}, {endpoint, p.endpoint, "endpoint"}, {noise, p.noise, "noise"}});
    return loss(p, batch, pred, weight, {scales, scale_weights, penalty, penalty_scale, reduction}, gradient_dtype);
  }

  // Gradients of (pred, target, weight), empty where `needs` says no; the last is asked for elsewhere.
  static std::tuple<Tensor, Tensor, Tensor> multiscale_loss_backward(const Tensor& grad_loss, const Tensor& pred,
                                                                     const Tensor& target, const OptionalTensor&,
                                                                     const Tensor& gradient, std::vector<int64_t>,
                                                                     std::vector<double>, int64_t, double, int64_t,
                                                                     std::vector<bool> needs) {
    check(needs.size() == 3 && !needs[2], "needs must say yes or no for each of pred and target, and no for weight");
    OptionalTensor grad_pred, grad_target;
    if (needs[0]) grad_pred = empty_like(pred, pred.scalar_type());
    if (needs[1]) grad_target = empty_like(target, target.scalar_type());
    scale_gradient(grad_loss, gradient, is_double(pred) || is_double(target), grad_pred, grad_target);
    return {or_nothing(grad_pred, pred), or_nothing(grad_target, pred), or_nothing(std::nullopt, pred)};
  }

  // Gradients of (pred, x, coefficients, endpoint, noise, weight), likewise.
  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> denoising_loss_backward(
      const Tensor& grad_loss, const Tensor& pred, const Tensor& x, const Tensor& coefficients,
      const OptionalTensor& seeds, const OptionalTensor& endpoint, const OptionalTensor& noise, const OptionalTensor&,
      const Tensor& gradient, int64_t stream, std::vector<int64_t>, std::vector<double>, int64_t, double, int64_t,
      std::vector<bool> needs) {
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
    return {or_nothing(grad_pred, pred),   grad_x, grad_coefficients, grad_endpoint, grad_noise,
            or_nothing(std::nullopt, pred)};
  }

  VISGEN_OPERATIONS(multiscale_loss, multiscale_loss_backward, denoising_loss, denoising_loss_backward)

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
    OptionalTensor gradient;
    if (gradient_dtype) {
      floating_dtype_of(*gradient_dtype, "gradient_dtype");
      gradient = empty_like(pred, *gradient_dtype);
    }
    batch.add(pred, p.pred, "pred");
    batch.add(gradient, p.gradient, "gradient");
    if (weight) {
      batch.add_broadcast(*weight, p.weight, "weight");
      for (int64_t d = p.planes * p.height == 1 ? 1 : pred.dim() - 2; d < pred.dim(); ++d) {
        p.weight_varies |= weight->size(d) != 1;
      }
    }
    const int64_t samples = pred.size(0);
    const ScalarType real = real_type_of(p.in_double);
    Tensor terms = zeros_for(p.terms, pred, {samples, p.scale_count}, real);
    Tensor result = zeros_for(p.loss, pred, p.reduction == Reduction::none ? Sizes{samples} : Sizes{}, real);
    p.shape = batch.merge();
    if (pred.numel() > 0) Device::run(p, pred);
    return {result, terms, or_nothing(gradient, pred)};
  }

  static void scale_gradient(const Tensor& grad_loss, const Tensor& gradient, bool in_double,
                             const OptionalTensor& grad_pred, const OptionalTensor& grad_target) {
    ScaledGradientParameters p;
    p.in_double = in_double;
    p.upstream_a_sample = grad_loss.dim() > 0;
    const Sizes sizes = p.upstream_a_sample ? Sizes{samples_of(gradient)} : Sizes{};
    p.upstream = data_of(grad_loss, gradient, sizes, real_type_of(in_double), "grad_loss");
    floating_dtype_of(gradient.scalar_type(), "gradient");
    if (grad_pred) floating_dtype_of(grad_pred->scalar_type(), "pred");
    if (grad_target) floating_dtype_of(grad_target->scalar_type(), "target");
    Batch batch(
        gradient, Kind::samples,
        {{gradient, p.gradient, "gradient"}, {grad_pred, p.grad_pred, "pred"}, {grad_target, p.grad_target, "target"}});
    batch.follow_memory();
    p.shape = batch.merge();
    if (gradient.numel() > 0) Device::run(p, gradient);
  }
};

}  // namespace visgen
