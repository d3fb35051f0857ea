// The family `multiscale` on a GPU: the loss at all scales of a tile, and its gradient, in one pass.
//
// A block takes a tile of a plane. Sums of windows, level by level, lie in shared memory; where windows are too large
// for that, in scratch of the block's own. Per element: pred and target read once (or x, and the noise made again), the
// gradient written once; four accesses of shared memory, and for scales 1, 2, 4, 8 about 30 operations.
//
// Sums of penalties are in double: lanes, warps, then tiles in their order, by a second launch of one block.
//
// Issue slots an element in the machine code for 9.0 (benchmarks/machine_code): multiscale_loss float32 290.5,
// multiscale_loss bfloat16 274, denoising_loss float32 348.7, denoising_loss bfloat16 323.3.
#include "../common/multiscale.h"

#include <numeric>

#include "../ops/multiscale_call.h"
#include "tile.cuh"
#include "warp.cuh"

namespace visgen {
namespace {

constexpr int kWarps = kBlockThreads / kWarpSize;

// The sums of a tile's windows at a level; of weights, `apart` numbers behind those of residuals.
template <class Real>
struct Windows {
  Real* sums;
  int rows, columns;
};

template <class Real>
__device__ __forceinline__ Windows<Real> windows_of(const MultiscaleParameters& p, const Region& at, Real* memory,
                                                    int level) {
  const int size = p.levels[level].size;
  return {memory + p.levels[level].place, static_cast<int>(divide(at.rows + size - 1, size)),
          static_cast<int>(divide(at.columns + size - 1, size))};
}

// Calls body(place, y, x) for this thread's windows.
template <class Real, class Body>
__device__ __forceinline__ void for_each_window(const Windows<Real>& windows, Body body) {
  const int64_t count = static_cast<int64_t>(windows.rows) * windows.columns;
  for (int64_t place = threadIdx.x; place < count; place += kBlockThreads) {
    const int64_t y = divide(place, windows.columns);
    body(place, static_cast<int>(y), static_cast<int>(place - y * windows.columns));
  }
}

// Calls body(first element in the sample, place in the tile) for this thread's elements, `span` at a time.
template <int span, class Body>
__device__ __forceinline__ void for_each_element(const MultiscaleParameters& p, const Region& at, Body body) {
  const int64_t count = at.rows * at.columns, first = (at.plane * p.height + at.row) * p.width + at.column;
  for (int64_t place = static_cast<int64_t>(threadIdx.x) * span; place < count; place += kBlockThreads * span) {
    const int64_t y = divide(place, at.columns);
    body(first + y * p.width + place - y * at.columns, place);
  }
}

template <bool wide, class Real, int span>
__device__ __forceinline__ void load_noise(const MultiscaleParameters& p, int64_t sample, int64_t begin,
                                           Real (&z)[span]) {
  if (p.noise.data) {
    load_tile<wide>(p.noise, p.shape, sample, begin, z);
  } else if constexpr (span == 1) {
    Real block[4];
    normal_tile(static_cast<uint64_t>(p.seeds[sample]), p.stream, begin / 4 * 4, block);
    z[0] = begin % 4 < 2 ? block[begin % 4] : block[2 + begin % 2];
  } else {
    normal_tile(static_cast<uint64_t>(p.seeds[sample]), p.stream, begin, z);
  }
}

template <bool wide, class Real, int span>
__device__ __forceinline__ void load_target(const MultiscaleParameters& p, int64_t sample, int64_t begin,
                                            Real (&target)[span]) {
  if (p.target.data) return load_tile<wide>(p.target, p.shape, sample, begin, target);
  Real x[span], endpoint[span], z[span];
  load_tile<wide>(p.x, p.shape, sample, begin, x);
  load_tile<wide>(p.endpoint, p.shape, sample, begin, endpoint);
  load_noise<wide>(p, sample, begin, z);
  const int64_t row = divide(sample * p.shape.elements + begin, p.row_size);
  const Real* c = static_cast<const Real*>(p.coefficients) + row * p.coefficient_count;
  VISGEN_UNROLL
  for (int i = 0; i < span; ++i) {
    target[i] = c[2] * x[i] + c[3] * z[i];
    if (p.endpoint.data) target[i] += c[5] * endpoint[i];
  }
}

// The penalty read at run time: one kernel serves all of them where finding an element takes longer than choosing.
template <class Real>
struct AnyPenalty {
  Penalty kind;
  cuda::PseudoHuber<Real> pseudo_huber;
  __device__ __forceinline__ void at(Real mean, Real& penalty, Real& slope) const {
    if (kind == Penalty::l2) return cuda::Squared().at(mean, penalty, slope);
    if (kind == Penalty::l1) return cuda::Absolute().at(mean, penalty, slope);
    pseudo_huber.at(mean, penalty, slope);
  }
};

template <class Real, int span, bool wide, class Penalize>
class TileLoss {
 public:
  // `apart`: numbers between the sums of residuals and those of weights.
  __device__ TileLoss(const MultiscaleParameters& p, Penalize rho, const Region& at, Real* memory, int64_t apart)
      : p_(p), rho_(rho), at_(at), memory_(memory), apart_(apart) {
    if (!p.weight.data || p.weight_varies) return;
    Real weight[1];
    load_tile<false>(p.weight, p.shape, at.sample, at.plane * p.height * p.width, weight);
    weight_ = weight[0];
  }

  // Sums of the penalties of all levels go into `totals` [levels, warps].
  __device__ void run(double* totals) {
    load(totals);
    for (int level = 1; level < p_.level_count; ++level) {
      sync_block();
      pool(level);
    }
    for (int level = p_.level_count - 1; level > 0; --level) {
      sync_block();
      penalize_level(level, totals);
    }
    sync_block();
    if (p_.gradient.data) write_gradient();
  }

 private:
  __device__ __forceinline__ bool is_masked() const { return weight_ == Real(0); }

  __device__ __forceinline__ void leave(double total, int level, double* totals) const {
    total = warp_sum(total);
    if (lane_index() == 0) totals[level * kWarps + warp_index()] = is_masked() ? 0.0 : total * weight_;
  }

  // Residuals, and with weights that vary their products and the weights; the sum of their penalties.
  __device__ void load(double* totals) {
    double total = 0;
    for_each_element<span>(p_, at_, [&](int64_t begin, int64_t place) {
      Real pred[span], target[span], weight[span];
      load_tile<wide>(p_.pred, p_.shape, at_.sample, begin, pred);
      load_target<wide>(p_, at_.sample, begin, target);
      if (p_.weight_varies) load_tile<wide>(p_.weight, p_.shape, at_.sample, begin, weight);
      VISGEN_UNROLL
      for (int i = 0; i < span; ++i) {
        Real residual = pred[i] - target[i], penalty, slope;
        if (is_masked() || (p_.weight_varies && weight[i] == Real(0))) residual = Real(0);
        rho_.at(residual, penalty, slope);
        memory_[place + i] = residual;
        if (p_.weight_varies) {
          memory_[apart_ + place + i] = weight[i];
          penalty *= weight[i];
        }
        total += penalty;
      }
    });
    leave(total, 0, totals);
  }

  // Level 0 keeps residuals: their products with the weights are made here.
  __device__ void pool(int index) {
    const Level& level = p_.levels[index];
    const Windows<Real> from = windows_of(p_, at_, memory_, level.parent), to = windows_of(p_, at_, memory_, index);
    for_each_window(to, [&](int64_t place, int y, int x) {
      Real sum = Real(0), weights = Real(0);
      for (int i = y * level.ratio; i < (y + 1) * level.ratio && i < from.rows; ++i) {
        for (int j = x * level.ratio; j < (x + 1) * level.ratio && j < from.columns; ++j) {
          const int64_t at = static_cast<int64_t>(i) * from.columns + j;
          const Real weight = p_.weight_varies ? from.sums[apart_ + at] : Real(1);
          sum += level.parent == 0 && p_.weight_varies ? from.sums[at] * weight : from.sums[at];
          weights += weight;
        }
      }
      to.sums[place] = sum;
      if (p_.weight_varies) to.sums[apart_ + place] = weights;
    });
  }

  // Sums become the gradient into them.
  __device__ void penalize_level(int index, double* totals) {
    const Level& level = p_.levels[index];
    const Windows<Real> windows = windows_of(p_, at_, memory_, index);
    double total = 0;
    for_each_window(windows, [&](int64_t place, int y, int x) {
      Real slope = Real(0);
      if (level.is_scale) {
        const int64_t rows = p_.height - at_.row - static_cast<int64_t>(y) * level.size;
        const int64_t columns = p_.width - at_.column - static_cast<int64_t>(x) * level.size;
        const Real share = Real(1) / static_cast<Real>((rows < level.size ? rows : level.size) *
                                                       (columns < level.size ? columns : level.size));
        Real mean = windows.sums[place] * share, penalty, part = Real(1);
        if (p_.weight_varies) {
          const Real weight = windows.sums[apart_ + place];
          mean = weight != Real(0) ? windows.sums[place] / weight : Real(0);
          part = weight * share;
        }
        rho_.at(mean, penalty, slope);
        slope *= share * (static_cast<Real>(level.factor) * weight_);
        if (part != Real(0)) total += penalty * part;
      }
      windows.sums[place] = slope + of_children(index, y, x);
    });
    leave(total, index, totals);
  }

  // What the windows that (y, x) of a level lies in have.
  __device__ __forceinline__ Real of_children(int index, int y, int x) const {
    Real sum = Real(0);
    for (int child = index + 1; child < p_.level_count; ++child) {
      const Level& level = p_.levels[child];
      if (level.parent != index) continue;
      const Windows<Real> windows = windows_of(p_, at_, memory_, child);
      sum += windows.sums[static_cast<int64_t>(y / level.ratio) * windows.columns + x / level.ratio];
    }
    return sum;
  }

  __device__ void write_gradient() const {
    const Level& level = p_.levels[0];
    for_each_element<span>(p_, at_, [&](int64_t begin, int64_t place) {
      const int y = static_cast<int>(divide(place, at_.columns)), x = static_cast<int>(place - y * at_.columns);
      Real gradient[span];
      VISGEN_UNROLL
      for (int i = 0; i < span; ++i) {
        Real penalty, slope;
        rho_.at(memory_[place + i], penalty, slope);
        gradient[i] = of_children(0, y, x + i);
        if (level.is_scale) gradient[i] += slope * (static_cast<Real>(level.factor) * weight_);
        if (p_.weight_varies) gradient[i] *= memory_[apart_ + place + i];
      }
      store_tile<wide>(p_.gradient, p_.shape, at_.sample, begin, gradient);
    });
  }

  const MultiscaleParameters& p_;
  Penalize rho_;
  const Region& at_;
  Real* memory_;
  int64_t apart_;
  Real weight_ = Real(1);
};

// `numbers` of scratch for each block, or shared memory where there is none. Told how many blocks a multiprocessor
// shall hold, nvcc spills nothing.
template <class Real, int span, bool wide, class Penalize>
__global__ void __launch_bounds__(kBlockThreads, span == 4 ? 3 : 2)
    forward(MultiscaleParameters p, Penalize rho, Real* scratch, int64_t apart, int64_t numbers) {
  VISGEN_SHARED(double, totals, kMostLevels* kWarps);
  Real* memory = scratch ? scratch + blockIdx.x * numbers : dynamic_shared<Real>();
  const int64_t units = p.shape.samples * p.units_per_sample();
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const Region at = region_at(p, unit);
    TileLoss<Real, span, wide, Penalize>(p, rho, at, memory, apart).run(totals);
    sync_block();
    for (int level = static_cast<int>(threadIdx.x); level < p.level_count; level += kBlockThreads) {
      double total = 0;
      for (int warp = 0; warp < kWarps; ++warp) total += totals[level * kWarps + warp];
      p.sums[unit * p.level_count + level] = total;
    }
    sync_block();
  }
}

// One block: its warps take samples in turn.
template <class Real>
__global__ void __launch_bounds__(kBlockThreads) add_up(MultiscaleParameters p) {
  VISGEN_SHARED(double, totals, kWarps);
  double total = 0;
  const int64_t units = p.units_per_sample();
  for (int64_t sample = warp_index(); sample < p.shape.samples; sample += kWarps) {
    double loss = 0;
    for (int i = 0; i < p.scale_count; ++i) {
      const Scale& scale = p.scales[i];
      double sum = 0;
      for (int64_t unit = lane_index(); unit < units; unit += kWarpSize) {
        sum += p.sums[(sample * units + unit) * p.level_count + scale.level];
      }
      const double mean = warp_sum(sum) / scale.windows;
      if (lane_index() == 0) static_cast<Real*>(p.terms)[sample * p.scale_count + i] = static_cast<Real>(mean);
      loss += scale.weight * mean;
    }
    if (lane_index() == 0 && p.reduction == Reduction::none) {
      static_cast<Real*>(p.loss)[sample] = static_cast<Real>(loss);
    }
    total += loss;
  }
  if (lane_index() == 0) totals[warp_index()] = total;
  sync_block();
  if (threadIdx.x != 0 || p.reduction == Reduction::none) return;
  total = 0;
  for (int warp = 0; warp < kWarps; ++warp) total += totals[warp];
  if (p.reduction == Reduction::mean) total /= static_cast<double>(p.shape.samples);
  *static_cast<Real*>(p.loss) = static_cast<Real>(total);
}

template <class Real, int span, bool wide>
__global__ void __launch_bounds__(kBlockThreads) scale_gradient(ScaledGradientParameters p) {
  const int64_t begin = first_of_tile<span>();
  if (begin >= p.shape.elements) return;
  for (int64_t sample = first_sample(); sample < p.shape.samples; sample += sample_step()) {
    const Real factor = static_cast<const Real*>(p.upstream)[p.upstream_a_sample ? sample : 0];
    Real gradient[span], opposite[span];
    load_tile<wide>(p.gradient, p.shape, sample, begin, gradient);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) {
      gradient[i] *= factor;
      opposite[i] = -gradient[i];
    }
    store_tile<wide>(p.grad_pred, p.shape, sample, begin, gradient);
    store_tile<wide>(p.grad_target, p.shape, sample, begin, opposite);
  }
}

template <class Real, int span, bool wide>
void launch_forward(const MultiscaleParameters& p, int64_t apart, const Tensor& like, const OnDevice& on) {
  constexpr size_t kStatic = kMostLevels * kWarps * sizeof(double) + 1024;
  const int64_t numbers = p.weight_varies ? 2 * apart : apart, units = p.shape.samples * p.units_per_sample();
  LaunchShape shape{dim3(static_cast<unsigned>(std::min<int64_t>(units, 1 << 30))), dim3(kBlockThreads)};
  shape.dynamic_shared_bytes = numbers * sizeof(Real);
  Real* scratch = nullptr;
  OptionalTensor memory;
  if (shape.dynamic_shared_bytes + kStatic > shared_memory_limit(like.get_device_index())) {
    shape.dynamic_shared_bytes = 0;
    shape.grid.x = static_cast<unsigned>(std::min<int64_t>(units, 2 * multiprocessor_count(like.get_device_index())));
    memory = empty_for(scratch, like, {shape.grid.x, numbers}, real_type_of(p.in_double));
  }
  const Real scale = static_cast<Real>(p.penalty_scale);
  const cuda::PseudoHuber<Real> pseudo_huber{scale, scale * scale};
  const auto start = [&]<class Penalize>(Penalize rho) {
    launch<forward<Real, span, wide, Penalize>>(shape, on.stream, p, rho, scratch, apart, numbers);
  };
  if constexpr (!wide) {
    start(AnyPenalty<Real>{p.penalty, pseudo_huber});
  } else if (p.penalty == Penalty::pseudo_huber) {
    start(pseudo_huber);
  } else {
    p.penalty == Penalty::l2 ? start(cuda::Squared()) : start(cuda::Absolute());
  }
  launch<add_up<Real>>({dim3(1), dim3(kBlockThreads)}, on.stream, p);
}

struct Multiscale {
  static void run(MultiscaleParameters p, const Tensor& like) {
    const OnDevice on(like.get_device_index());
    p.tiles = tiles_of(p, 2048, 8, 8);
    int64_t numbers = 0;
    for (int i = 0; i < p.level_count; ++i) {
      Level& level = p.levels[i];
      level.place = numbers;
      numbers += (p.tiles.rows + level.size - 1) / level.size * ((p.tiles.columns + level.size - 1) / level.size);
    }
    const Tensor sums =
        empty_for(p.sums, like, {p.shape.samples * p.units_per_sample(), p.level_count}, ScalarType::Double);
    const int64_t row_size = std::gcd(p.width, p.target.data ? 0 : p.row_size);
    choose_tile(
        p.in_double, p.shape, row_size,
        {&p.pred, &p.target, &p.x, &p.endpoint, &p.noise, p.weight_varies ? &p.weight : &p.pred, &p.gradient},
        [&]<class Real, int span, bool wide>() { launch_forward<Real, wide ? span : 1, wide>(p, numbers, like, on); });
  }

  static void run(const ScaledGradientParameters& p, const Tensor& like) {
    const OnDevice on(like.get_device_index());
    choose_tile(p.in_double, p.shape, p.shape.elements, {&p.gradient, &p.grad_pred, &p.grad_target},
                [&]<class Real, int span, bool wide>() {
                  launch<scale_gradient<Real, span, wide>>(tile_grid(p.shape, span), on.stream, p);
                });
  }

  static void run(const DiffuseBackwardParameters& p, const Tensor& like) { run_diffuse_backward(p, like); }
};

}  // namespace

VISGEN_REGISTER(CUDA, m) { MultiscaleOperations<Multiscale>::add_to(m); }

}  // namespace visgen
