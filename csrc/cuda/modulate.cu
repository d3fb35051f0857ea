// The family `modulate` on a GPU: a warp a row, its lanes four columns at a time.
//
// Forward, per number: x and branch read from memory once, for the sum, and twice from the cache, for the squares about
// the mean and the output; the residual and y written once. Backward: residual, branch and the two gradients read once
// and all but the branch once from the cache, two gradients written once. Vectors that rows share stay in the cache.
//
// Sums over rows: a block takes a unit of rows; each of its warps adds up some of them in shared memory, a lane its own
// columns; then warps are added up in double, and units by a second launch, in an order that sizes alone decide.
//
// Issue slots an element in the machine code for 9.0 (benchmarks/machine_code): modulated_norm float32 90.08,
// modulated_norm bfloat16 94.11, gated_residual_norm float32 151.9, gated_residual_norm bfloat16 170.5.
#include "../ops/modulate_call.h"

#include "modulate.cuh"
#include "shared_gradient.h"

namespace visgen {
namespace {

constexpr int kWarps = kBlockThreads / kWarpSize;
constexpr int64_t kRowsOfUnit = 32;
constexpr int64_t kSharedBytes = 64 * 1024;  // what every GPU gives a block

template <class Real, int span>
__global__ void __launch_bounds__(kBlockThreads) forward(ModulateParameters p) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * warps_per_block() + warp_index();
  if (at >= p.rows) return;
  const Slots slots(p.slot, p.shape, at);
  const Row of_x(p.x, p.shape, at), of_branch(p.branch, p.shape, at), of_residual(p.residual, p.shape, at);
  const Row of_y(p.y, p.shape, at);
  // What is normalized: with a branch the residual, rounded as it is stored.
  const auto load = [&](int64_t begin, Real(&r)[span]) {
    load_columns(p.x, of_x, begin, r);
    if (!p.branch.data) return;
    Real branch[span], gate[span];
    load_columns(p.branch, of_branch, begin, branch);
    slots.load(p, kGate, Real(1), begin, gate);
    visit_floating(p.residual.dtype, [&]<class Stored>() {
      VISGEN_UNROLL
      for (int i = 0; i < span; ++i) r[i] = convert<Real>(convert<Stored>(r[i] + gate[i] * branch[i]));
    });
  };
  Real first[span];  // distances from the first number: exact for equal numbers, close for others near each other
  load(0, first);
  const double distance = sum_of_row<Real, span>(p.columns, [&](int64_t begin, Real(&r)[span]) {
    load(begin, r);
    store_columns(p.residual, of_residual, begin, r);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) r[i] -= first[0];
  });
  const double mean = p.is_rms ? 0.0 : first[0] + distance / static_cast<double>(p.columns);
  const Real centre = static_cast<Real>(mean);
  const double squares = sum_of_row<Real, span>(p.columns, [&](int64_t begin, Real(&values)[span]) {
    load(begin, values);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) values[i] = (values[i] - centre) * (values[i] - centre);
  });
  const double variance = squares / static_cast<double>(p.columns) - (mean - centre) * (mean - centre);
  const Real inverse = static_cast<Real>(1.0 / sqrt(variance + p.eps));
  if (lane_index() == 0) {
    if (p.mean) static_cast<Real*>(p.mean)[at] = centre;
    static_cast<Real*>(p.inverse_deviation)[at] = inverse;
  }
  for_each_tile<span>(p.columns, [&](int64_t begin) {
    Real y[span], scale[span], shift[span], weight[span], bias[span];
    load(begin, y);
    slots.load(p, kScale, Real(0), begin, scale);
    slots.load(p, kShift, Real(0), begin, shift);
    slots.load(p, kWeight, Real(1), begin, weight);
    slots.load(p, kBias, Real(0), begin, bias);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) {
      y[i] = ((y[i] - centre) * inverse * weight[i] + bias[i]) * (Real(1) + scale[i]) + shift[i];
    }
    store_columns(p.y, of_y, begin, y);
  });
}

// What rows contribute to sums. Columns that go one at a time are in double, since a row may have no others.
template <class Real, int span>
using SumOf = std::conditional_t<span == 1, double, Real>;

// Of one row of one warp.
template <class Real, int span>
class BackwardRow {
 public:
  using Sum = SumOf<Real, span>;

  // `shared` or `sums` [sums, columns]: what the warp adds up.
  __device__ BackwardRow(const ModulateBackwardParameters& p, int64_t at, Sum* shared, double* sums)
      : p_(p),
        slots_(p.slot, p.shape, at),
        gradients_(p.gradient, p.shape, at),
        residual_(p.residual, p.shape, at),
        branch_(p.branch, p.shape, at),
        grad_residual_(p.grad_residual, p.shape, at),
        grad_y_(p.grad_y, p.shape, at),
        grad_x_(p.grad_x, p.shape, at),
        grad_branch_(p.grad_branch, p.shape, at),
        shared_(shared),
        sums_(sums),
        centre_(p.mean ? static_cast<const Real*>(p.mean)[at] : Real(0)),
        inverse_(static_cast<const Real*>(p.inverse_deviation)[at]),
        spread_(p.columns == 1 && !p.is_rms ? Real(0) : inverse_) {}  // one number is its mean, whatever it is

  __device__ void run() {
    const double of_gradient = p_.is_rms ? 0.0 : sum_of_row<Real, span>(p_.columns, [&](int64_t begin, auto& values) {
      Real normed[span], incoming[span];
      load_normed(begin, normed, incoming, values);
    });
    const double of_product = sum_of_row<Real, span>(p_.columns, [&](int64_t begin, auto& values) {
      Real normed[span], incoming[span];
      load_normed(begin, normed, incoming, values);
      VISGEN_UNROLL
      for (int i = 0; i < span; ++i) values[i] *= normed[i];
    });
    mean_ = static_cast<Real>(of_gradient / static_cast<double>(p_.columns));
    slope_ = static_cast<Real>(of_product / static_cast<double>(p_.columns));
    for_each_tile<span>(p_.columns, [&](int64_t begin) { write(begin); });
    write_numbers();
  }

 private:
  // norm(r), the gradient of y, and the gradient that norm(r) has from it.
  __device__ __forceinline__ void load_normed(int64_t begin, Real (&normed)[span], Real (&incoming)[span],
                                              Real (&into_normed)[span]) const {
    Real scale[span], weight[span];
    load_columns(p_.residual, residual_, begin, normed);
    load_or_zero(p_.grad_y, grad_y_, begin, incoming);
    slots_.load(p_, kScale, Real(0), begin, scale);
    slots_.load(p_, kWeight, Real(1), begin, weight);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) {
      normed[i] = (normed[i] - centre_) * inverse_;
      into_normed[i] = incoming[i] * ((Real(1) + scale[i]) * weight[i]);
    }
  }

  __device__ __forceinline__ void write(int64_t begin) {
    Real normed[span], incoming[span], into_normed[span], gradient[span], gate[span];
    Sum contribution[span];
    load_normed(begin, normed, incoming, into_normed);
    load_or_zero(p_.grad_residual, grad_residual_, begin, gradient);
    slots_.load(p_, kGate, Real(1), begin, gate);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) {
      gradient[i] += (into_normed[i] - mean_ - normed[i] * slope_) * spread_;
      gate[i] *= gradient[i];
    }
    store_columns(p_.grad_x, grad_x_, begin, gradient);
    store_columns(p_.grad_branch, grad_branch_, begin, gate);
    if (wants(kGate)) {
      load_or_zero(p_.branch, branch_, begin, contribution);
      VISGEN_UNROLL
      for (int i = 0; i < span; ++i) contribution[i] *= gradient[i];
      give(kGate, begin, contribution);
    }
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) contribution[i] = incoming[i];
    if (wants(kShift)) give(kShift, begin, contribution);
    Real weight[span], bias[span], scale[span];
    slots_.load(p_, kWeight, Real(1), begin, weight);
    slots_.load(p_, kBias, Real(0), begin, bias);
    slots_.load(p_, kScale, Real(0), begin, scale);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) contribution[i] = incoming[i] * (Sum(normed[i]) * weight[i] + bias[i]);
    if (wants(kScale)) give(kScale, begin, contribution);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) contribution[i] = incoming[i] * (Sum(1) + scale[i]);
    if (wants(kBias)) give(kBias, begin, contribution);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) contribution[i] *= normed[i];
    if (wants(kWeight)) give(kWeight, begin, contribution);
  }

  __device__ __forceinline__ bool wants(int slot) const {
    return p_.gradient[slot][0].data || p_.gradient[slot][1].data;
  }

  // What a tile contributes to the gradients of a slot.
  __device__ __forceinline__ void give(int slot, int64_t begin, const Sum (&values)[span]) {
    VISGEN_UNROLL
    for (int term = 0; term < kTerms; ++term) {
      if (!p_.gradient[slot][term].data || p_.is_shared[slot][term]) continue;
      const Row& row = gradients_.row[slot][term];
      if (row.stride) store_columns(p_.gradient[slot][term], row, begin, values);
    }
    Sum total = 0;
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) total += values[i];
    numbers_[slot] += total;
    if (p_.sum_of[slot] < 0) return;
    const int64_t place = p_.sum_of[slot] * p_.columns + begin;
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) {
      if (shared_) {
        shared_[place + i] += values[i];
      } else {
        sums_[place + i] += values[i];
      }
    }
  }

  // Gradients of one number a row.
  __device__ __forceinline__ void write_numbers() const {
    VISGEN_UNROLL
    for (int slot = 0; slot < kSlots; ++slot) {
      VISGEN_UNROLL
      for (int term = 0; term < kTerms; ++term) {
        const Operand& gradient = p_.gradient[slot][term];
        if (!gradient.data || p_.is_shared[slot][term] || gradients_.row[slot][term].stride) continue;
        const Real total[1] = {static_cast<Real>(warp_sum(numbers_[slot]))};
        if (lane_index() == 0) store_columns(gradient, gradients_.row[slot][term], 0, total);
      }
    }
  }

  const ModulateBackwardParameters& p_;
  const Slots slots_, gradients_;
  const Row residual_, branch_, grad_residual_, grad_y_, grad_x_, grad_branch_;
  Sum* shared_;
  double* sums_;
  const Real centre_, inverse_, spread_;
  Real mean_ = 0, slope_ = 0;
  double numbers_[kSlots] = {0, 0, 0, 0, 0};
};

// A block a unit; its warps take rows in turn. Without shared memory one warp adds up in `partial_sums` itself.
template <class Real, int span>
__global__ void __launch_bounds__(kBlockThreads) backward(ModulateBackwardParameters p, bool in_shared) {
  const int64_t numbers = p.sums * p.columns, index = blockIdx.x;
  const Unit unit = unit_at(p.partition, index);
  using Sum = SumOf<Real, span>;
  Sum* shared = in_shared ? dynamic_shared<Sum>() : nullptr;
  double* sums = p.partial_sums ? p.partial_sums + index * numbers : nullptr;
  for (int64_t i = threadIdx.x; i < (in_shared ? warps_per_block() * numbers : numbers); i += blockDim.x) {
    if (in_shared) {
      shared[i] = 0;
    } else {
      sums[i] = 0;
    }
  }
  sync_block();
  for (int64_t at = unit.begin + warp_index(); at < unit.end; at += warps_per_block()) {
    BackwardRow<Real, span>(p, at, in_shared ? shared + warp_index() * numbers : nullptr, sums).run();
  }
  sync_block();
  for (int64_t i = threadIdx.x; in_shared && i < numbers; i += blockDim.x) {
    double total = 0;
    for (int warp = 0; warp < warps_per_block(); ++warp) total += shared[warp * numbers + i];
    sums[i] = total;
  }
}

struct Modulate {
  static void run(const ModulateParameters& p, const Tensor& like) {
    const OnDevice on(like.get_device_index());
    const auto is_wide = [&](const Operand& operand) { return has_wide_columns(operand, p.shape, 4); };
    const bool wide = p.columns % 4 == 0 && has_wide_columns(p.slot, p.shape, 4) && is_wide(p.x) && is_wide(p.branch) &&
                      is_wide(p.residual) && is_wide(p.y);
    choose_columns(p, wide,
                   [&]<class Real, int span>() { launch<forward<Real, span>>(warp_grid(p.rows), on.stream, p); });
  }

  static void run(ModulateBackwardParameters p, const Tensor& like) {
    const OnDevice on(like.get_device_index());
    set_units(p, rows_of_run(p), 0, kRowsOfUnit);
    const OptionalTensor sums = add_partial_sums(p, like);
    const auto is_wide = [&](const Operand& operand) { return has_wide_columns(operand, p.shape, 4); };
    const bool wide = p.columns % 4 == 0 && has_wide_columns(p.slot, p.shape, 4) &&
                      has_wide_columns(p.gradient, p.shape, 4) && is_wide(p.residual) && is_wide(p.branch) &&
                      is_wide(p.grad_residual) && is_wide(p.grad_y) && is_wide(p.grad_x) && is_wide(p.grad_branch);
    choose_columns(p, wide, [&]<class Real, int span>() { launch_backward<Real, span>(p, on.stream); });
  }

 private:
  template <class Real, int span>
  static void launch_backward(const ModulateBackwardParameters& p, Stream stream) {
    const int64_t bytes = p.sums * p.columns * sizeof(SumOf<Real, span>);
    const int64_t fitting = bytes ? kSharedBytes / bytes : kWarps;
    const int64_t warps = std::max<int64_t>(1, std::min({int64_t{kWarps}, p.partition.unit_size, fitting}));
    LaunchShape shape{dim3(static_cast<unsigned>(p.partition.units())), dim3(static_cast<unsigned>(warps) * kWarpSize)};
    const bool in_shared = bytes > 0 && fitting > 0;
    if (in_shared) shape.dynamic_shared_bytes = warps * bytes;
    launch<backward<Real, span>>(shape, stream, p, in_shared);
    for_each_sum(p, [&](const SharedGradient& sum) { add_up(sum, stream); });
  }
};

}  // namespace

VISGEN_REGISTER(CUDA, m) { ModulateOperations<Modulate>::add_to(m); }

}  // namespace visgen
