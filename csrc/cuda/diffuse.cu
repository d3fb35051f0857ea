// The family `diffuse` on a GPU.
//
// Forward, per element: x read once, x_t and target written once (6 bytes in bfloat16, 12 in float32), and the
// arithmetic of one normal number (cuda/noise.cu) plus 2 multiply-adds an output. What is most common has a kernel of
// its own, forward_dense, whose threads take tiles of one sample in turn.
//
// Backward into the signals reads 2 values an element and writes 1 for each. Into the coefficients it reads the
// gradients once more, and x, makes the noise again, and adds up 4 products an element in double: a warp for each unit
// of the partition, then a warp for each row, always in the same order. A row of coefficients for every element suits
// this least: a warp then adds up one.
//
// Issue slots an element in the machine code for 9.0 (benchmarks/machine_code): diffuse float32 58.75, diffuse bfloat16
// 50.5, add_noise float32 55, add_noise bfloat16 47.12.
#include "../ops/diffuse_call.h"

#include "tile.cuh"
#include "warp.cuh"

namespace visgen {
namespace {

constexpr int64_t kUnit = 2048;  // elements of a row that one warp adds up

template <bool wide, class Real, int span>
__device__ __forceinline__ void load_noise(const Diffusion& p, int64_t sample, int64_t begin, Real (&z)[span]) {
  if (p.noise.data) {
    load_tile<wide>(p.noise, p.shape, sample, begin, z);
  } else {
    normal_tile(static_cast<uint64_t>(p.seeds[sample]), p.stream, begin, z);
  }
}

// Calls body(i, row of coefficients) for the elements of a tile. Wide tiles lie within one row.
template <bool wide, class Real, int span, class Body>
__device__ __forceinline__ void for_each_element(const Diffusion& p, int64_t sample, int64_t begin, Body body) {
  const int64_t row_size = p.row_size;
  const bool one_row = row_size == p.shape.elements;
  const Real* rows = static_cast<const Real*>(p.coefficients);
  rows += sample * (one_row ? 1 : divide(p.shape.elements, row_size)) * p.coefficient_count;
  if constexpr (wide) {
    const Real* c = rows + (one_row ? 0 : divide(begin, row_size)) * p.coefficient_count;
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) body(i, c);
  } else {
    VISGEN_NO_UNROLL
    for (int i = 0; i < span && begin + i < p.shape.elements; ++i) {
      body(i, rows + divide(begin + i, row_size) * p.coefficient_count);
    }
  }
}

template <class Real, int span, bool wide>
__global__ void __launch_bounds__(kBlockThreads) forward(DiffuseParameters p) {
  const int64_t begin = first_of_tile<span>();
  if (begin >= p.shape.elements) return;
  for (int64_t sample = first_sample(); sample < p.shape.samples; sample += sample_step()) {
    Real x[span], endpoint[span], z[span], x_t[span], target[span];
    load_tile<wide>(p.x, p.shape, sample, begin, x);
    load_tile<wide>(p.endpoint, p.shape, sample, begin, endpoint);
    load_noise<wide>(p, sample, begin, z);
    for_each_element<wide, Real, span>(p, sample, begin, [&](int i, const Real* c) {
      x_t[i] = c[0] * x[i] + c[1] * z[i];
      target[i] = c[2] * x[i] + c[3] * z[i];
      if (p.endpoint.data) {
        x_t[i] += c[4] * endpoint[i];
        target[i] += c[5] * endpoint[i];
      }
    });
    store_tile<wide>(p.x_t, p.shape, sample, begin, x_t);
    store_tile<wide>(p.target, p.shape, sample, begin, target);
  }
}

// Where seeds make the noise, there is no endpoint, and a sample has one row of coefficients.
template <class Stored, int span, bool with_target>
__global__ void __launch_bounds__(kBlockThreads) forward_dense(DiffuseParameters p) {
  const uint32_t sample = blockIdx.y * blockDim.y + threadIdx.y;
  if (sample >= p.shape.samples) return;
  const uint64_t seed = static_cast<uint64_t>(p.seeds[sample]);
  const auto c = load_vec<4>(static_cast<const float*>(p.coefficients) + 4 * sample);
  const Stored* from = sample_of<Stored>(p.x, sample);
  Stored *to_x_t = sample_of<Stored>(p.x_t, sample), *to_target = sample_of<Stored>(p.target, sample);
  for_each_turn<span>(static_cast<uint32_t>(p.shape.elements), [&](uint32_t begin) {
    float x[span], z[span], x_t[span], target[span];
    load_dense(from, begin, x);
    normal_tile(seed, p.stream, begin, z);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) {
      x_t[i] = c[0] * x[i] + c[1] * z[i];
      target[i] = c[2] * x[i] + c[3] * z[i];
    }
    store_dense(to_x_t, begin, x_t);
    if constexpr (with_target) store_dense(to_target, begin, target);
  });
}

// Which columns of the coefficients weigh a signal in (x_t, target).
struct Columns {
  int of_x_t, of_target;
};
constexpr Columns kOfX{0, 2}, kOfNoise{1, 3}, kOfEndpoint{4, 5};

template <bool wide, class Real, int span>
__device__ __forceinline__ void store_gradient(const Diffusion& p, const Operand& gradient, Columns columns,
                                               int64_t sample, int64_t begin, const Real (&g)[span],
                                               const Real (&h)[span]) {
  if (!gradient.data) return;
  Real result[span];
  for_each_element<wide, Real, span>(p, sample, begin, [&](int i, const Real* c) {
    result[i] = c[columns.of_x_t] * g[i] + c[columns.of_target] * h[i];
  });
  store_tile<wide>(gradient, p.shape, sample, begin, result);
}

template <class Real, int span, bool wide>
__global__ void __launch_bounds__(kBlockThreads) backward_signals(DiffuseBackwardParameters p) {
  const int64_t begin = first_of_tile<span>();
  if (begin >= p.shape.elements) return;
  for (int64_t sample = first_sample(); sample < p.shape.samples; sample += sample_step()) {
    Real g[span], h[span];
    load_tile<wide>(p.grad_x_t, p.shape, sample, begin, g);
    load_tile<wide>(p.grad_target, p.shape, sample, begin, h);
    store_gradient<wide>(p, p.grad_x, kOfX, sample, begin, g, h);
    store_gradient<wide>(p, p.grad_noise, kOfNoise, sample, begin, g, h);
    store_gradient<wide>(p, p.grad_endpoint, kOfEndpoint, sample, begin, g, h);
  }
}

// One warp a unit: its lanes take tiles in turn, masked to the unit, then add up.
template <class Real, int span, bool wide>
__global__ void __launch_bounds__(kBlockThreads) backward_coefficients(DiffuseBackwardParameters p) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * warps_per_block() + warp_index();
  if (index >= p.partition.samples * p.partition.units_per_sample) return;
  const Unit unit = unit_at(p.partition, index);
  double sums[6] = {0, 0, 0, 0, 0, 0};  // whole pictures of either sign add up here
  for (int64_t begin = unit.begin / span * span + lane_index() * span; begin < unit.end; begin += kWarpSize * span) {
    Real g[span], h[span], signals[3][span];
    load_tile<wide>(p.grad_x_t, p.shape, unit.sample, begin, g);
    load_tile<wide>(p.grad_target, p.shape, unit.sample, begin, h);
    load_tile<wide>(p.x, p.shape, unit.sample, begin, signals[0]);
    load_noise<wide>(p, unit.sample, begin, signals[1]);
    load_tile<wide>(p.endpoint, p.shape, unit.sample, begin, signals[2]);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) {
      if (begin + i < unit.begin || begin + i >= unit.end) continue;
      sums[kOfX.of_x_t] += static_cast<double>(g[i]) * signals[0][i];
      sums[kOfX.of_target] += static_cast<double>(h[i]) * signals[0][i];
      sums[kOfNoise.of_x_t] += static_cast<double>(g[i]) * signals[1][i];
      sums[kOfNoise.of_target] += static_cast<double>(h[i]) * signals[1][i];
      sums[kOfEndpoint.of_x_t] += static_cast<double>(g[i]) * signals[2][i];
      sums[kOfEndpoint.of_target] += static_cast<double>(h[i]) * signals[2][i];
    }
  }
  VISGEN_UNROLL
  for (int j = 0; j < 6; ++j) {
    const double sum = warp_sum(sums[j]);
    if (lane_index() != 0 || j >= p.coefficient_count) continue;
    if (p.partial_sums) {
      p.partial_sums[index * p.coefficient_count + j] = sum;
    } else {
      static_cast<Real*>(p.grad_coefficients)[index * p.coefficient_count + j] = static_cast<Real>(sum);
    }
  }
}

// One warp a row: adds the partial sums of its units.
template <class Real>
__global__ void __launch_bounds__(kBlockThreads) add_up_rows(DiffuseBackwardParameters p, int64_t rows) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * warps_per_block() + warp_index();
  if (row >= rows) return;
  for (int j = 0; j < p.coefficient_count; ++j) {
    double sum = 0;
    for (int64_t unit = lane_index(); unit < p.partition.units_per_row; unit += kWarpSize) {
      sum += p.partial_sums[(row * p.partition.units_per_row + unit) * p.coefficient_count + j];
    }
    sum = warp_sum(sum);
    if (lane_index() == 0)
      static_cast<Real*>(p.grad_coefficients)[row * p.coefficient_count + j] = static_cast<Real>(sum);
  }
}

template <class Real, int span, bool wide>
void launch_backward(const DiffuseBackwardParameters& p, Stream stream) {
  if (p.grad_x.data || p.grad_noise.data || p.grad_endpoint.data) {
    launch<backward_signals<Real, span, wide>>(tile_grid(p.shape, span), stream, p);
  }
  if (!p.grad_coefficients) return;
  launch<backward_coefficients<Real, span, wide>>(warp_grid(p.partition.units()), stream, p);
  if (!p.partial_sums) return;
  const int64_t rows = p.partition.units() / p.partition.units_per_row;
  launch<add_up_rows<Real>>(warp_grid(rows), stream, p, rows);
}

// Whether it served the call.
bool launch_dense(const DiffuseParameters& p, int device, Stream stream) {
  const bool aligned = is_vec_aligned<4>(static_cast<const float*>(p.coefficients));
  if (!p.seeds || p.endpoint.data || p.row_size != p.shape.elements || !aligned) return false;
  return choose_dense(p.shape, {&p.x, &p.x_t, &p.target}, [&]<class Stored, int span>() {
    const LaunchShape shape = dense_grid(p.shape, span, device);
    if (p.target.data) {
      launch<forward_dense<Stored, span, true>>(shape, stream, p);
    } else {
      launch<forward_dense<Stored, span, false>>(shape, stream, p);
    }
  });
}

struct Diffuse {
  static void run(const DiffuseParameters& p, const Tensor& like) {
    const int device = like.get_device_index();
    const OnDevice on(device);
    if (launch_dense(p, device, on.stream)) return;
    choose_tile(p.in_double, p.shape, p.row_size, {&p.x, &p.noise, &p.endpoint, &p.x_t, &p.target},
                [&]<class Real, int span, bool wide>() {
                  launch<forward<Real, span, wide>>(tile_grid(p.shape, span), on.stream, p);
                });
  }

  static void run(DiffuseBackwardParameters p, const Tensor& like) {
    const OnDevice on(like.get_device_index());
    p.partition = Partition::within_rows(p.shape.samples, p.shape.elements, p.row_size, kUnit);
    const OptionalTensor sums = add_partial_sums(p, like);
    choose_tile(p.in_double, p.shape, p.row_size,
                {&p.x, &p.noise, &p.endpoint, &p.grad_x_t, &p.grad_target, &p.grad_x, &p.grad_noise, &p.grad_endpoint},
                [&]<class Real, int span, bool wide>() { launch_backward<Real, span, wide>(p, on.stream); });
  }
};

}  // namespace

void run_diffuse_backward(const DiffuseBackwardParameters& p, const Tensor& like) { Diffuse::run(p, like); }

VISGEN_REGISTER(CUDA, m) { DiffuseOperations<Diffuse>::add_to(m); }

}  // namespace visgen
