// The family `solve` on one instruction set: one row of a sampler's table for each sample, frame or token.
//
// Per element: each operand whose coefficient is not 0 read once from memory, the next state and up to two slots
// written once; a multiply-add for each operand of each sum; a normal number where the row adds noise from seeds.
#include "../kernels.h"
#include "block.h"
#include "solve_step.h"
#include "sums.h"
#include "tile.h"

namespace visgen::VISGEN_ISA {
namespace {

// Consecutive elements in memory.
struct Stretch {
  char* data = nullptr;
  DType dtype = DType::float32;
  int64_t size = 4;  // bytes of an element

  Stretch() = default;
  Stretch(void* data, DType dtype) : data(static_cast<char*>(data)), dtype(dtype), size(size_of(dtype)) {}
  void* at(int64_t element) const { return data + element * size; }
};

bool is_stretch(const Operand& operand, const SampleShape& shape) {
  return shape.dimensions == 1 && operand.strides[0] == 1;
}

Stretch stretch_of(const Operand& operand, int64_t sample, int64_t begin) {
  const Stretch all(operand.data, operand.dtype);
  return {all.at(sample * operand.sample_stride + begin), operand.dtype};
}

template <class Real>
VISGEN_HOST_DEVICE void add(Real factor, const Block<Real>& values, Block<Real>& sum) {
  sum.each([factor](auto& total, const auto& value) { total += factor * value; }, values);
}

template <class Real>
VISGEN_HOST_DEVICE Block<Real> evaluate(const Sum<Real>& sum, const Stretch (&from)[kSources], int64_t begin) {
  Block<Real> result;
  for (int k = 0; k < sum.count; ++k) {
    const Stretch& source = from[sum.sources[k]];
    add(sum.coefficients[k], load_block<Real>(source.at(begin), source.dtype), result);
  }
  return result;
}

// NaN stays NaN.
template <class Real>
VISGEN_HOST_DEVICE void clamp_to(Real bound, Block<Real>& block) {
  block.each([bound](auto& vector) {
    const auto most = decltype(vector - vector){} + bound;
    vector = vector < -most ? -most : vector;
    vector = vector > most ? most : vector;
  });
}

template <class Real>
VISGEN_HOST_DEVICE Block<Real> denoise(const StepParameters& p, const Step<Real>& step, const Stretch (&from)[kSources],
                                       int64_t begin) {
  Block<Real> denoised = evaluate(step.denoised, from, begin);
  if (p.limit) {
    clamp_to(step.limit, denoised);
    denoised.each([&](auto& vector) { vector /= step.limit; });
  } else if (step.clamp > 0) {
    clamp_to(step.clamp, denoised);
  }
  return denoised;
}

// All results before any is stored: the state may be overwritten, and slots are.
template <int results, class Real>
void step_block(const StepParameters& p, const Step<Real>& step, const Stretch (&from)[kSources],
                const Stretch (&to)[3], int64_t begin) {
  Block<Real> denoised, sums[results];
  if (step.denoises) denoised = denoise(p, step, from, begin);
  VISGEN_UNROLL
  for (int r = 0; r < results; ++r) {
    sums[r] = evaluate(step.results[r], from, begin);
    if (step.results[r].of_denoised != 0) add(step.results[r].of_denoised, denoised, sums[r]);
  }
  VISGEN_UNROLL
  for (int r = 0; r < results; ++r) store_block(sums[r], to[r].at(begin), to[r].dtype);
}

// The elements [begin, count), too few for a block, in a block of their own.
template <int results, class Real>
void step_rest(const StepParameters& p, const Step<Real>& step, Stretch (&from)[kSources], Stretch (&to)[3],
               int64_t begin, int64_t count) {
  constexpr int kBytes = Block<Real>::kSize * sizeof(double);
  alignas(64) char sources[kSources][kBytes] = {}, stored[results][kBytes];
  for (int k = 0; k < kSources; ++k) {
    if (!step.reads[k]) continue;
    memcpy(sources[k], from[k].at(begin), (count - begin) * from[k].size);
    from[k].data = sources[k];
  }
  char* places[results];
  for (int r = 0; r < results; ++r) {
    places[r] = static_cast<char*>(to[r].at(begin));
    to[r].data = stored[r];
  }
  step_block<results>(p, step, from, to, 0);
  for (int r = 0; r < results; ++r) memcpy(places[r], stored[r], (count - begin) * to[r].size);
}

template <int results, class Real>
void step_stretch(const StepParameters& p, const Step<Real>& step, Stretch (&from)[kSources], Stretch (&to)[3],
                  int64_t count) {
  int64_t begin = 0;
  for (; begin + Block<Real>::kSize <= count; begin += Block<Real>::kSize) {
    step_block<results>(p, step, from, to, begin);
  }
  if (begin < count) step_rest<results>(p, step, from, to, begin, count);
}

// exp(½(l0 + l1·variance)) times the noise, in place.
inline void scale_noise(float l0, float l1, const float* variance, float* noise, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    FloatVector v, z;
    memcpy(&v, variance + i, sizeof(v));
    memcpy(&z, noise + i, sizeof(z));
    z *= exponential(0.5f * (l0 + l1 * v));
    memcpy(noise + i, &z, sizeof(z));
  }
  for (; i < count; ++i) noise[i] *= exponential(0.5f * (l0 + l1 * variance[i]));
}

inline void scale_noise(double l0, double l1, const double* variance, double* noise, int64_t count) {
  for (int64_t i = 0; i < count; ++i) noise[i] *= exponential(0.5 * (l0 + l1 * variance[i]));
}

template <class Real>
struct Buffers {
  alignas(64) Real sources[kSources][kTile], noise[kTile + kGroup], results[3][kTile];
};

// Of seeds, or multiplied by what the variance says.
template <class Real>
Real* make_noise(const StepParameters& p, const Step<Real>& step, int64_t sample, int64_t begin, int64_t count,
                 Buffers<Real>& buffers) {
  Real* scaled = buffers.sources[kNoise];
  const Real* z = p.noise.data ? load_tile(p.noise, p.shape, sample, begin, count, buffers.noise)
                               : normal_tile(static_cast<uint64_t>(p.seeds[sample]),
                                             p.stream + static_cast<uint64_t>(step.row), begin, count, buffers.noise);
  memcpy(scaled, z, sizeof(Real) * count);
  if (p.variance.data) {
    const Real* variance = load_tile(p.variance, p.shape, sample, begin, count, buffers.noise);
    scale_noise(step.l0, step.l1, variance, scaled, count);
  }
  return scaled;
}

const Operand& operand_of(const StepParameters& p, int source) {
  if (source == kState) return p.x;
  if (source < kSlots) return p.outputs[source - kOutputs];
  return source < kNoise ? p.slots[source - kSlots] : p.noise;
}

bool makes_noise(const StepParameters& p) { return !p.noise.data || p.variance.data; }

// Whether all that the step touches lies in memory as the loop wants it.
template <class Real>
bool is_one_stretch(const StepParameters& p, const Step<Real>& step) {
  if (step.reads[kNoise] && makes_noise(p)) return false;
  for (int k = 0; k < kSources; ++k) {
    if (step.reads[k] && !is_stretch(operand_of(p, k), p.shape)) return false;
  }
  for (int r = 0; r < step.result_count; ++r) {
    if (!is_stretch(*step.places[r], p.shape)) return false;
  }
  return true;
}

// Where what the step reads of a tile lies, or is brought.
template <class Real>
void find_sources(const StepParameters& p, const Step<Real>& step, int64_t sample, int64_t begin, int64_t count,
                  Buffers<Real>& buffers, Stretch (&from)[kSources]) {
  for (int k = 0; k < kSources; ++k) {
    if (!step.reads[k]) continue;
    const Operand& operand = operand_of(p, k);
    if (k == kNoise && makes_noise(p)) {
      from[k] = Stretch(make_noise(p, step, sample, begin, count, buffers), kArithmetic<Real>);
    } else if (is_stretch(operand, p.shape)) {
      from[k] = stretch_of(operand, sample, begin);
    } else {
      load_tile(operand, p.shape, sample, begin, count, buffers.sources[k]);
      from[k] = Stretch(buffers.sources[k], kArithmetic<Real>);
    }
  }
}

template <class Real>
void step_tile(const StepParameters& p, const Step<Real>& step, int64_t sample, int64_t begin, int64_t count,
               Buffers<Real>& buffers) {
  Stretch from[kSources], to[3];
  find_sources(p, step, sample, begin, count, buffers, from);
  for (int r = 0; r < step.result_count; ++r) {
    to[r] = is_stretch(*step.places[r], p.shape) ? stretch_of(*step.places[r], sample, begin)
                                                 : Stretch(buffers.results[r], kArithmetic<Real>);
  }
  if (step.result_count == 1) step_stretch<1>(p, step, from, to, count);
  if (step.result_count == 2) step_stretch<2>(p, step, from, to, count);
  if (step.result_count == 3) step_stretch<3>(p, step, from, to, count);
  for (int r = 0; r < step.result_count; ++r) {
    if (is_stretch(*step.places[r], p.shape)) continue;
    store_tile(*step.places[r], p.shape, sample, begin, count, buffers.results[r]);
  }
}

int64_t row_of(const StepParameters& p, const Unit& unit) {
  const int64_t rows_per_sample = p.partition.elements / p.row_size;
  return p.steps ? p.steps[unit.sample * rows_per_sample + unit.begin / p.row_size] : p.step;
}

template <class Real>
void take_step(const StepParameters& p, int64_t first_unit, int64_t last_unit) {
  Buffers<Real> buffers;
  for (int64_t index = first_unit; index < last_unit; ++index) {
    const Unit unit = unit_at(p.partition, index);
    const Step<Real> step(p, unit.sample, row_of(p, unit));
    const int64_t most = is_one_stretch(p, step) ? unit.end - unit.begin : kTile;
    for (int64_t begin = unit.begin; begin < unit.end; begin += most) {
      const int64_t count = most < unit.end - begin ? most : unit.end - begin;
      step_tile(p, step, unit.sample, begin, count, buffers);
    }
  }
}

// Adds to `sums`, [n + 1, n + 1], the sums of n signals (column 0) and of their products, all in one pass.
template <int n, class Real>
void add_tile(const Real* const* in, int64_t count, double* sums) {
  typedef Real RealVector __attribute__((vector_size(kDoubles * sizeof(Real))));
  DoubleVector totals[n][n + 1] = {};
  int64_t i = 0;
  for (; i + kDoubles <= count; i += kDoubles) {
    DoubleVector values[n];
    VISGEN_UNROLL
    for (int j = 0; j < n; ++j) {
      RealVector value;
      memcpy(&value, in[j] + i, sizeof(value));
      values[j] = __builtin_convertvector(value, DoubleVector);
      totals[j][0] += values[j];
      VISGEN_UNROLL
      for (int k = 0; k <= j; ++k) totals[j][k + 1] += values[j] * values[k];
    }
  }
  for (int j = 0; j < n; ++j) {
    double* row = sums + (j + 1) * (n + 1);
    for (int k = 0; k <= j + 1; ++k) {
      for (int lane = 0; lane < kDoubles; ++lane) row[k] += totals[j][k][lane];
      for (int64_t rest = i; rest < count; ++rest) {
        row[k] += static_cast<double>(in[j][rest]) * (k == 0 ? 1 : static_cast<double>(in[k - 1][rest]));
      }
    }
  }
}

template <class Real>
void add_products(const ProductsParameters& p, int64_t first_unit, int64_t last_unit) {
  constexpr void (*kAddTile[])(const Real* const*, int64_t, double*) = {nullptr, add_tile<1, Real>, add_tile<2, Real>,
                                                                        add_tile<3, Real>, add_tile<4, Real>};
  alignas(64) Real buffers[ProductsParameters::kMost - 1][kTile];
  const int n = p.count + 1;
  for (int64_t index = first_unit; index < last_unit; ++index) {
    const Unit unit = unit_at(p.partition, index);
    double* sums = p.partial_sums + index * n * n;
    for (int i = 0; i < n * n; ++i) sums[i] = 0;
    sums[0] = static_cast<double>(unit.end - unit.begin);
    for (int64_t begin = unit.begin; begin < unit.end; begin += kTile) {
      const int64_t count = kTile < unit.end - begin ? kTile : unit.end - begin;
      const Real* in[ProductsParameters::kMost - 1];
      for (int j = 0; j < p.count; ++j) {
        in[j] = load_tile(p.signals[j], p.shape, unit.sample, begin, count, buffers[j]);
      }
      kAddTile[p.count](in, count, sums);
    }
  }
}

// Counts the next digits of those numbers of a tile that begin with what was found of either.
template <class Real>
void count_tile(const QuantileParameters& p, const Real* values, int64_t count, const KeyOf<Real> (&heads)[2],
                uint32_t* counts) {
  const int digits = (1 << (p.above - p.shift)) - 1;
  uint32_t nan_count = 0;
  for (int64_t i = 0; i < count; ++i) {
    const KeyOf<Real> key = key_of(values[i]), head = key >> p.above;
    const int digit = static_cast<int>(key >> p.shift) & digits;
    if (head == heads[0]) {
      ++counts[digit];
    } else if (head == heads[1]) {
      ++counts[p.kBins + digit];
    }
    nan_count += values[i] != values[i];
  }
  counts[p.kNaN] += nan_count;
}

template <class Real>
void count_digits(const QuantileParameters& p, int64_t first_unit, int64_t last_unit) {
  Buffers<Real> buffers;
  uint32_t counts[QuantileParameters::kCounts] = {};  // of one sample
  for (int64_t index = first_unit; index < last_unit; ++index) {
    const Unit unit = unit_at(p.partition, index);
    const auto step = Step<Real>::to_denoised(p, unit.sample, row_of(p, unit));
    const KeyOf<Real> heads[] = {head_of<Real>(p, unit.sample, 0), head_of<Real>(p, unit.sample, 1)};
    for (int64_t begin = unit.begin; begin < unit.end; begin += kTile) {
      const int64_t tile = kTile < unit.end - begin ? kTile : unit.end - begin;
      Stretch from[kSources], to[3] = {{buffers.results[0], kArithmetic<Real>}};
      find_sources(p, step, unit.sample, begin, tile, buffers, from);
      step_stretch<1>(p, step, from, to, tile);
      count_tile(p, buffers.results[0], tile, heads, counts);
    }
    if (unit.end < p.partition.elements && index + 1 < last_unit) continue;
    for (int bin = 0; bin < p.kCounts; ++bin) {  // threads may share a sample
      if (counts[bin]) __atomic_fetch_add(&p.counts[unit.sample * p.kCounts + bin], counts[bin], __ATOMIC_RELAXED);
      counts[bin] = 0;
    }
  }
}

}  // namespace

const Loops<StepParameters, ProductsParameters, QuantileParameters> solve_kernels = {
    {take_step<float>, take_step<double>},
    {add_products<float>, add_products<double>},
    {count_digits<float>, count_digits<double>}};

}  // namespace visgen::VISGEN_ISA
