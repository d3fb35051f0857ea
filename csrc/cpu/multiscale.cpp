// The family `multiscale` on the CPU.
#include "../ops/multiscale_call.h"

#include "device.h"

namespace visgen {
namespace {

// Adds up what the units left in their order, so that the loss does not depend on the number of threads.
template <class Real>
void add_up(const MultiscaleParameters& p) {
  double total = 0;
  for (int64_t sample = 0; sample < p.shape.samples; ++sample) {
    double loss = 0;
    for (int i = 0; i < p.scale_count; ++i) {
      const Scale& scale = p.scales[i];
      double sum = 0;
      for (int64_t unit = 0; unit < p.units_per_sample(); ++unit) {
        sum += p.sums[(sample * p.units_per_sample() + unit) * p.level_count + scale.level];
      }
      const double mean = sum / scale.windows;
      static_cast<Real*>(p.terms)[sample * p.scale_count + i] = static_cast<Real>(mean);
      loss += scale.weight * mean;
    }
    if (p.reduction == Reduction::none) static_cast<Real*>(p.loss)[sample] = static_cast<Real>(loss);
    total += loss;
  }
  if (p.reduction == Reduction::none) return;
  *static_cast<Real*>(p.loss) = static_cast<Real>(p.reduction == Reduction::mean ? total / p.shape.samples : total);
}

struct Multiscale {
  static void run(MultiscaleParameters p, const Tensor& like) {
    // In the first-level cache with what is read and written, unless windows need more; rows of some length even then.
    p.tiles = tiles_of(p, std::max<int64_t>(2048, 256 * unit_of_windows(p)), 8, 1);
    p.tiles.planes_first = p.pred.strides[0] < p.pred.strides[p.shape.dimensions - 1];  // in channels_last
    const int64_t units = p.shape.samples * p.units_per_sample(), elements = p.tiles.rows * p.tiles.columns;
    Tensor sums = empty_on(like, {units, p.level_count}, ScalarType::Double);
    p.sums = sums.mutable_data_ptr<double>();
    run_loop(p, units, units_of_share(elements));
    p.in_double ? add_up<double>(p) : add_up<float>(p);
  }

  static void run(ScaledGradientParameters p, const Tensor&) {
    p.partition = Partition(p.shape.samples, p.shape.elements, p.shape.elements, kUnit);
    run_units(p);
  }

  static void run(const DiffuseBackwardParameters& p, const Tensor& like) { run_diffuse_backward(p, like); }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { MultiscaleOperations<Multiscale>::add_to(m); }

}  // namespace visgen
