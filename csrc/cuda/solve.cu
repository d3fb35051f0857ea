// The family `solve` on a GPU.
//
// A step, per element: each operand whose coefficient is not 0 read once, the next state and up to two slots written
// once: with guidance by two outputs and one slot 4 reads and 2 writes (DPM-Solver++ 2M: 24 bytes in float32, 12 in
// bfloat16), 8 to 16 multiply-adds, and one normal number (cuda/noise.cu) where the row adds noise from seeds. The row
// is 32 doubles that all threads of a sample read: from the second thread on they come from the first-level cache.
//
// The products read each signal once and add up (n² + 3n)/2 numbers an element in double, n signals: a warp for each
// unit of the partition, then a warp for each sample, always in the same order.
//
// A quantile reads the state and the outputs three times, six in double: for each pass a block counts a unit in shared
// memory, 16 KiB of counts that are added to those of the sample, then a warp for each sample chooses the digits.
//
// Issue slots an element in the machine code for 9.0 (benchmarks/machine_code): solver_step_ guided float32 170.2,
// solver_step_ guided bfloat16 90.88.
#include "../ops/solve_call.h"

#include "tile.cuh"
#include "warp.cuh"

namespace visgen {
namespace {

constexpr TableColumns kAt;
constexpr int64_t kUnit = 2048, kCountedUnit = 16384;  // elements that one warp adds up, or one block counts

// The row of the table that an element has; where the step lies outside the table, its numbers are NaN.
struct Row {
  const double* numbers;
  int64_t step;

  template <class Real>
  __device__ __forceinline__ Real at(int column) const {
    return numbers ? static_cast<Real>(numbers[column]) : static_cast<Real>(nan(""));
  }
};

__device__ __forceinline__ Row row_of(const StepParameters& p, int64_t sample, int64_t element) {
  int64_t step = p.step;
  if (p.steps) {
    const bool one_row = p.row_size == p.shape.elements;
    step = p.steps[one_row ? sample : sample * divide(p.shape.elements, p.row_size) + divide(element, p.row_size)];
  }
  return {0 <= step && step < p.table_rows ? p.table + step * kTableColumns : nullptr, step};
}

// The weights of a sample's outputs; null where there are none: for a step outside a table of weights they are 0.
__device__ __forceinline__ const double* weights_of(const StepParameters& p, const Row& row, int64_t sample) {
  if (!p.weights || (!row.numbers && p.weight_rows != 1)) return nullptr;
  const int64_t at = (p.weight_rows > 1 ? row.step : 0) * p.weight_samples + (p.weight_samples > 1 ? sample : 0);
  return p.weights + at * p.output_count;
}

template <class Real>
__device__ __forceinline__ Real clamped(Real value, Real bound) {
  const Real low = value < -bound ? -bound : value;  // NaN stays NaN
  return low > bound ? bound : low;
}

template <bool wide, class Real, int span>
__device__ __forceinline__ void denoise(const StepParameters& p, const Row& row, int64_t sample, int64_t begin,
                                        const Real (&x)[span], Real (&denoised)[span]) {
  const Real u = row.at<Real>(kAt.u), v = row.at<Real>(kAt.v);
  Real guided[span];
  VISGEN_UNROLL
  for (int i = 0; i < span; ++i) guided[i] = Real(0);
  const double* weights = weights_of(p, row, sample);
  for (int j = 0; j < p.output_count; ++j) {
    const Real weight = weights ? static_cast<Real>(weights[j]) : !p.weights && j == 0 ? Real(1) : Real(0);
    if (weight == 0 || v == 0) continue;
    Real output[span];
    load_tile<wide>(p.outputs[j], p.shape, sample, begin, output);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) guided[i] += weight * output[i];
  }
  VISGEN_UNROLL
  for (int i = 0; i < span; ++i) {
    denoised[i] = (u != 0 ? u * x[i] : Real(0)) + (v != 0 ? v * guided[i] : Real(0));
  }
}

template <class Real, int span>
__device__ __forceinline__ void clamp_to(const StepParameters& p, const Row& row, int64_t sample,
                                         Real (&denoised)[span]) {
  if (p.limit) {
    const Real limit = static_cast<const Real*>(p.limit)[sample];
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) denoised[i] = clamped(denoised[i], limit) / limit;
  } else if (const Real bound = row.at<Real>(kAt.clamp); bound > 0) {
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) denoised[i] = clamped(denoised[i], bound);
  }
}

template <bool wide, class Real, int span>
__device__ __forceinline__ void make_noise(const StepParameters& p, const Row& row, int64_t sample, int64_t begin,
                                           Real (&z)[span]) {
  if (p.noise.data) {
    load_tile<wide>(p.noise, p.shape, sample, begin, z);
  } else if (p.seeds) {
    normal_tile(static_cast<uint64_t>(p.seeds[sample]), p.stream + static_cast<uint64_t>(row.step), begin, z);
  } else {
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) z[i] = static_cast<Real>(nan(""));
  }
  if (!p.variance.data) return;
  const Real l0 = row.at<Real>(kAt.l0), l1 = row.at<Real>(kAt.l1);
  Real variance[span];
  load_tile<wide>(p.variance, p.shape, sample, begin, variance);
  VISGEN_UNROLL
  for (int i = 0; i < span; ++i) z[i] *= cuda::exponential(Real(0.5) * (l0 + l1 * variance[i]));
}

// Adds an operand to the sums that want it. A coefficient of 0 adds nothing, whatever the operand holds.
template <class Real, int span>
__device__ __forceinline__ void add_to_sums(const Row& row, const int (&slots)[3], int operand,
                                            const Real (&values)[span], Real (&sums)[3][span]) {
  VISGEN_UNROLL
  for (int s = 0; s < 3; ++s) {
    const Real c = slots[s] < 0 ? Real(0) : row.at<Real>(kAt.next + s * kOperands + operand);
    if (c == 0) continue;
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) sums[s][i] += c * values[i];
  }
}

__device__ __forceinline__ bool wanted(const Row& row, const int (&slots)[3], int operand) {
  bool any = false;
  VISGEN_UNROLL
  for (int s = 0; s < 3; ++s) any = any || (slots[s] >= 0 && row.at<double>(kAt.next + s * kOperands + operand) != 0);
  return any;
}

template <bool wide, class Real, int span>
__device__ __forceinline__ void step_tile(const StepParameters& p, const Row& row, int64_t sample, int64_t begin,
                                          Real (&sums)[3][span], int (&slots)[3]) {
  slots[0] = 0;
  slots[1] = row.numbers ? static_cast<int>(row.numbers[kAt.slot_a]) : -1;
  slots[2] = row.numbers ? static_cast<int>(row.numbers[kAt.slot_b]) : -1;
  VISGEN_UNROLL
  for (int s = 0; s < 3; ++s) {
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) sums[s][i] = Real(0);
  }
  Real values[span];
  {
    Real x[span];
    load_tile<wide>(p.x, p.shape, sample, begin, x);
    add_to_sums(row, slots, kAt.of_x, x, sums);
    if (wanted(row, slots, kAt.of_denoised)) {
      denoise<wide>(p, row, sample, begin, x, values);
      clamp_to(p, row, sample, values);
      add_to_sums(row, slots, kAt.of_denoised, values, sums);
    }
  }
  if (wanted(row, slots, kAt.of_output)) {
    load_tile<wide>(p.outputs[p.output_count - 1], p.shape, sample, begin, values);
    add_to_sums(row, slots, kAt.of_output, values, sums);
  }
  for (int k = 0; k < kMostSlots; ++k) {
    if (!wanted(row, slots, kAt.of_slots + k)) continue;
    load_tile<wide>(p.slots[k], p.shape, sample, begin, values);
    add_to_sums(row, slots, kAt.of_slots + k, values, sums);
  }
  if (wanted(row, slots, kAt.of_noise)) {
    make_noise<wide>(p, row, sample, begin, values);
    add_to_sums(row, slots, kAt.of_noise, values, sums);
  }
}

// Elements [first, last) of a tile that is not wide.
template <class Real, int span>
__device__ __forceinline__ void store_some(const Operand& to, const SampleShape& shape, int64_t sample, int64_t begin,
                                           int64_t first, int64_t last, const Real (&values)[span]) {
  visit_floating(to.dtype, [&]<class Stored>() {
    Stored* data = static_cast<Stored*>(to.data);
    VISGEN_NO_UNROLL
    for (int i = 0; i < span; ++i) {
      if (begin + i < first || begin + i >= last) continue;
      data[offset_of(to, shape, sample, begin + i)] = convert<Stored>(values[i]);
    }
  });
}

// A thread reads all of its elements before it writes any, so the state and slots may be overwritten. A wide tile lies
// within one row of the table; another one takes the rows that it meets in turn.
template <class Real, int span, bool wide>
__global__ void __launch_bounds__(kBlockThreads) take_step(StepParameters p) {
  const int64_t begin = first_of_tile<span>();
  if (begin >= p.shape.elements) return;
  const int64_t end = begin + span < p.shape.elements ? begin + span : p.shape.elements;
  for (int64_t sample = first_sample(); sample < p.shape.samples; sample += sample_step()) {
    for (int64_t first = begin, last = end; first < end; first = last) {
      if constexpr (!wide) {
        const int64_t row_end = (divide(first, p.row_size) + 1) * p.row_size;
        last = row_end < end ? row_end : end;
      }
      Real sums[3][span];
      int slots[3];
      step_tile<wide>(p, row_of(p, sample, first), sample, begin, sums, slots);
      VISGEN_UNROLL
      for (int s = 0; s < 3; ++s) {
        if (s > 0 && (slots[s] < 0 || slots[s] >= kMostSlots || !p.slots[slots[s]].data)) continue;
        const Operand& to = s == 0 ? p.next : p.slots[slots[s]];
        if constexpr (wide) {
          store_tile<wide>(to, p.shape, sample, begin, sums[s]);
        } else {
          store_some(to, p.shape, sample, begin, first, last, sums[s]);
        }
      }
    }
  }
}

// One warp a unit: its lanes take tiles in turn, then add up.
template <class Real, int span, bool wide>
__global__ void __launch_bounds__(kBlockThreads) add_products(ProductsParameters p) {
  constexpr int kMost = ProductsParameters::kMost;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * warps_per_block() + warp_index();
  if (index >= p.partition.samples * p.partition.units_per_sample) return;
  const Unit unit = unit_at(p.partition, index);
  double sums[kMost][kMost] = {};
  for (int64_t begin = unit.begin + lane_index() * span; begin < unit.end; begin += kWarpSize * span) {
    Real signals[kMost - 1][span];
    VISGEN_UNROLL
    for (int j = 0; j < kMost - 1; ++j) load_tile<wide>(p.signals[j], p.shape, unit.sample, begin, signals[j]);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) {
      if (begin + i >= unit.end) continue;
      sums[0][0] += 1;
      VISGEN_UNROLL
      for (int j = 1; j < kMost; ++j) {
        sums[j][0] += signals[j - 1][i];
        VISGEN_UNROLL
        for (int k = 1; k <= j; ++k) sums[j][k] += static_cast<double>(signals[j - 1][i]) * signals[k - 1][i];
      }
    }
  }
  const int n = p.count + 1;
  VISGEN_UNROLL
  for (int j = 0; j < kMost; ++j) {
    VISGEN_UNROLL
    for (int k = 0; k <= j; ++k) {
      const double sum = warp_sum(sums[j][k]);
      if (lane_index() == 0 && j < n) p.partial_sums[index * n * n + j * n + k] = sum;
    }
  }
}

// One warp a sample: adds the partial sums of its units, for either triangle.
__global__ void __launch_bounds__(kBlockThreads) add_up_products(ProductsParameters p, double* products) {
  const int64_t sample = static_cast<int64_t>(blockIdx.x) * warps_per_block() + warp_index();
  if (sample >= p.shape.samples) return;
  const int n = p.count + 1;
  for (int j = 0; j < n; ++j) {
    for (int k = 0; k <= j; ++k) {
      double sum = 0;
      for (int64_t unit = lane_index(); unit < p.partition.units_per_sample; unit += kWarpSize) {
        sum += p.partial_sums[(sample * p.partition.units_per_sample + unit) * n * n + j * n + k];
      }
      sum = warp_sum(sum);
      if (lane_index() != 0) continue;
      products[(sample * n + j) * n + k] = sum;
      products[(sample * n + k) * n + j] = sum;
    }
  }
}

// One block a unit: its threads take tiles in turn and count in shared memory. Wide tiles lie within one row.
template <class Real, int span, bool wide>
__global__ void __launch_bounds__(kBlockThreads) count_digits(QuantileParameters p) {
  VISGEN_SHARED(uint32_t, counts, QuantileParameters::kCounts);
  for (int i = threadIdx.x; i < p.kCounts; i += kBlockThreads) counts[i] = 0;
  sync_block();
  const Unit unit = unit_at(p.partition, blockIdx.x);
  const KeyOf<Real> heads[] = {head_of<Real>(p, unit.sample, 0), head_of<Real>(p, unit.sample, 1)};
  const int digits = (1 << (p.above - p.shift)) - 1;
  for (int64_t begin = unit.begin + threadIdx.x * span; begin < unit.end; begin += kBlockThreads * span) {
    const int64_t end = begin + span < unit.end ? begin + span : unit.end;
    for (int64_t first = begin, last = end; first < end; first = last) {
      if constexpr (!wide) {
        const int64_t row_end = (divide(first, p.row_size) + 1) * p.row_size;
        last = row_end < end ? row_end : end;
      }
      Real x[span], denoised[span];
      load_tile<wide>(p.x, p.shape, unit.sample, begin, x);
      denoise<wide>(p, row_of(p, unit.sample, first), unit.sample, begin, x, denoised);
      VISGEN_UNROLL
      for (int i = 0; i < span; ++i) {
        if (begin + i < first || begin + i >= last) continue;
        const KeyOf<Real> key = key_of(denoised[i]), head = key >> p.above;
        const int digit = static_cast<int>(key >> p.shift) & digits;
        if (head == heads[0]) {
          atomic_add(&counts[digit], 1u);
        } else if (head == heads[1]) {
          atomic_add(&counts[p.kBins + digit], 1u);
        }
        if (denoised[i] != denoised[i]) atomic_add(&counts[p.kNaN], 1u);
      }
    }
  }
  sync_block();
  for (int i = threadIdx.x; i < p.kCounts; i += kBlockThreads) {
    if (counts[i] > 0) atomic_add(&p.counts[unit.sample * p.kCounts + i], counts[i]);
  }
}

// One warp a sample: each lane looks for the number in its share of the digits.
template <class Real>
__global__ void __launch_bounds__(kBlockThreads) choose_digits(QuantileParameters p) {
  constexpr int kShare = QuantileParameters::kBins / kWarpSize;
  const int64_t sample = static_cast<int64_t>(blockIdx.x) * warps_per_block() + warp_index();
  if (sample >= p.shape.samples) return;
  uint32_t* counts = p.counts + sample * p.kCounts;
  QuantileParameters::Found numbers[2];
  for (int which = 0; which < 2; ++which) {
    numbers[which] = p.is_first_pass() ? first_of(p, which, counts[p.kNaN]) : p.found[2 * sample + which];
  }
  const bool together = numbers[0].key == numbers[1].key;
  sync_warp();  // all lanes have read what one of them overwrites
  for (int which = 0; which < 2; ++which) {
    auto& [key, rank] = numbers[which];
    const uint32_t* of_digit = counts + (together ? 0 : which * p.kBins);
    int digit = lane_index() * kShare;
    int64_t own = 0;
    for (int i = 0; i < kShare; ++i) own += of_digit[digit + i];
    int64_t sum = own;  // up to this lane
    for (int delta = 1; delta < kWarpSize; delta *= 2) {
      const int64_t other = shuffle_up(sum, delta);
      if (lane_index() >= delta) sum += other;
    }
    rank -= sum - own;
    if (rank < 0 || rank >= own) continue;
    while (rank >= of_digit[digit]) rank -= of_digit[digit++];
    p.found[2 * sample + which] = {key | static_cast<uint64_t>(digit) << p.shift, rank};
  }
  sync_warp();
  for (int i = lane_index(); i < p.kCounts; i += kWarpSize) counts[i] = 0;
  if (p.shift == 0 && lane_index() == 0) write_results<Real>(p, sample);
}

struct Solve {
  static void run(const StepParameters& p, const Tensor& like) {
    const OnDevice on(like.get_device_index());
    choose_tile(p.in_double, p.shape, p.row_size,
                {&p.x, &p.outputs[0], &p.outputs[1], &p.outputs[2], &p.slots[0], &p.slots[1], &p.slots[2], &p.slots[3],
                 &p.noise, &p.variance, &p.next},
                [&]<class Real, int span, bool wide>() {
                  launch<take_step<Real, span, wide>>(tile_grid(p.shape, span), on.stream, p);
                });
  }

  static void run(ProductsParameters p, const Tensor& products) {
    const OnDevice on(products.get_device_index());
    p.partition = Partition(p.shape.samples, p.shape.elements, p.shape.elements, kUnit);
    const Tensor sums = partial_products(p, products);
    choose_tile(p.in_double, p.shape, p.shape.elements, {&p.signals[0], &p.signals[1], &p.signals[2], &p.signals[3]},
                [&]<class Real, int span, bool wide>() {
                  launch<add_products<Real, span, wide>>(warp_grid(p.partition.units()), on.stream, p);
                });
    launch<add_up_products>(warp_grid(p.shape.samples), on.stream, p, products.mutable_data_ptr<double>());
  }

  static void run(QuantileParameters p, const Tensor& x) {
    const OnDevice on(x.get_device_index());
    p.partition = Partition(p.shape.samples, p.shape.elements, p.shape.elements, kCountedUnit);
    const QuantileScratch scratch = quantile_scratch(p, x);
    const LaunchShape blocks{dim3(static_cast<unsigned>(p.partition.units())), dim3(kBlockThreads)};
    for_each_digit(p, [&] {
      choose_tile(p.in_double, p.shape, p.row_size, {&p.x, &p.outputs[0], &p.outputs[1], &p.outputs[2]},
                  [&]<class Real, int span, bool wide>() {
                    launch<count_digits<Real, span, wide>>(blocks, on.stream, p);
                    launch<choose_digits<Real>>(warp_grid(p.shape.samples), on.stream, p);
                  });
    });
  }
};

}  // namespace

VISGEN_REGISTER(CUDA, m) { SolveOperations<Solve>::add_to(m); }

}  // namespace visgen
