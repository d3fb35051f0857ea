// The family `solve` on one instruction set: one row of a sampler's table for each sample, frame or token.
//
// Per element: each operand whose coefficient is not 0 read once, the next state and up to two slots written once, one
// fused multiply-add an operand and result; a normal number where the row adds noise from seeds.
#include "../../ops/solve.h"

#include "../kernels.h"
#include "sums.h"
#include "tile.h"

namespace visgen::VISGEN_ISA {
namespace {

constexpr TableColumns kAt;

// What one row of the table, the sample's weights and its limit make of a tile.
template <class Real>
struct Step {
  Real u, v, clamp, limit, l0, l1, weights[kMostOutputs];
  Real sums[3][kOperands];  // of the next state and the two slots written
  int slots[3];             // -1 where nothing is written; the next state's is not read
  bool needs[kOperands];

  Step(const StepParameters& p, int64_t sample, int64_t step) {
    const double* row = p.table + step * kTableColumns;
    u = static_cast<Real>(row[kAt.u]), v = static_cast<Real>(row[kAt.v]);
    clamp = static_cast<Real>(row[kAt.clamp]);
    l0 = static_cast<Real>(row[kAt.l0]), l1 = static_cast<Real>(row[kAt.l1]);
    limit = p.limit ? static_cast<const Real*>(p.limit)[sample] : Real(0);
    for (int j = 0; j < kMostOutputs; ++j) weights[j] = j == 0 ? Real(1) : Real(0);
    if (p.weights) {
      const int64_t at = (p.weight_rows > 1 ? step : 0) * p.weight_samples + (p.weight_samples > 1 ? sample : 0);
      for (int j = 0; j < p.output_count; ++j) weights[j] = static_cast<Real>(p.weights[at * p.output_count + j]);
    }
    slots[0] = 0, slots[1] = static_cast<int>(row[kAt.slot_a]), slots[2] = static_cast<int>(row[kAt.slot_b]);
    for (bool& need : needs) need = false;
    for (int s = 0; s < 3; ++s) {
      for (int k = 0; k < kOperands; ++k) {
        const double coefficient = slots[s] < 0 ? 0 : row[kAt.next + s * kOperands + k];
        sums[s][k] = static_cast<Real>(coefficient);
        needs[k] = needs[k] || sums[s][k] != 0;
      }
    }
  }
};

template <class Real>
struct Buffers {
  alignas(64) Real operand[kOperands][kTile], outputs[kMostOutputs][kTile], guided[kTile], noise[kTile + kGroup],
      result[3][kTile];
};

template <int n, class Real>
void sum_of(const Real (&c)[kOperands], const Real* const (&in)[kOperands], Real* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    Real sum = c[0] * in[0][i];
    VISGEN_UNROLL
    for (int k = 1; k < n; ++k) sum += c[k] * in[k][i];
    out[i] = sum;
  }
}

// Σ coefficient·term over the terms whose coefficient is not 0: what the others hold is not read.
template <class Real>
void weighted_sum(const Real* coefficients, const Real* const* terms, int terms_count, Real* out, int64_t count) {
  Real c[kOperands];
  const Real* in[kOperands];
  int used = 0;
  for (int k = 0; k < terms_count; ++k) {
    if (coefficients[k] == 0) continue;
    c[used] = coefficients[k];
    in[used++] = terms[k];
  }
  switch (used) {
    case 0:
      memset(out, 0, sizeof(Real) * count);
      return;
    case 1:
      return sum_of<1>(c, in, out, count);
    case 2:
      return sum_of<2>(c, in, out, count);
    case 3:
      return sum_of<3>(c, in, out, count);
    case 4:
      return sum_of<4>(c, in, out, count);
    case 5:
      return sum_of<5>(c, in, out, count);
    case 6:
      return sum_of<6>(c, in, out, count);
    case 7:
      return sum_of<7>(c, in, out, count);
    default:
      return sum_of<8>(c, in, out, count);
  }
}

// NaN stays NaN.
template <class Real>
void clamp_to(Real bound, Real* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const Real low = values[i] < -bound ? -bound : values[i];
    values[i] = low > bound ? bound : low;
  }
}

template <class Real>
const Real* denoise(const StepParameters& p, const Step<Real>& step, const Real* x, int64_t sample, int64_t begin,
                    int64_t count, Buffers<Real>& buffers) {
  const Real* outputs[kMostOutputs] = {};
  for (int j = 0; j < p.output_count; ++j) {
    if (step.v == 0 || step.weights[j] == 0) continue;
    outputs[j] = load_tile(p.outputs[j], p.shape, sample, begin, count, buffers.outputs[j]);
  }
  const Real* guided = outputs[0];
  if (step.v != 0 && (p.output_count > 1 || step.weights[0] != 1)) {
    weighted_sum(step.weights, outputs, p.output_count, buffers.guided, count);
    guided = buffers.guided;
  }
  Real* denoised = buffers.operand[kAt.of_denoised];
  const Real coefficients[2] = {step.u, step.v};
  const Real* const terms[2] = {x, guided};
  weighted_sum(coefficients, terms, 2, denoised, count);
  if (p.limit) {
    clamp_to(step.limit, denoised, count);
    for (int64_t i = 0; i < count; ++i) denoised[i] /= step.limit;
  } else if (step.clamp > 0) {
    clamp_to(step.clamp, denoised, count);
  }
  return denoised;
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
const Real* make_noise(const StepParameters& p, const Step<Real>& step, int64_t row, int64_t sample, int64_t begin,
                       int64_t count, Buffers<Real>& buffers) {
  const Real* z = p.noise.data ? load_tile(p.noise, p.shape, sample, begin, count, buffers.noise)
                               : normal_tile(static_cast<uint64_t>(p.seeds[sample]),
                                             p.stream + static_cast<uint64_t>(row), begin, count, buffers.noise);
  if (!p.variance.data) return z;
  Real* scaled = buffers.operand[kAt.of_noise];
  memcpy(scaled, z, sizeof(Real) * count);
  const Real* variance = load_tile(p.variance, p.shape, sample, begin, count, buffers.guided);
  scale_noise(step.l0, step.l1, variance, scaled, count);
  return scaled;
}

template <class Real>
void step_tile(const StepParameters& p, const Step<Real>& step, int64_t row, int64_t sample, int64_t begin,
               int64_t count, Buffers<Real>& buffers) {
  const Real* terms[kOperands] = {};
  const bool needs_x = step.needs[kAt.of_x] || (step.needs[kAt.of_denoised] && step.u != 0);
  if (needs_x) terms[kAt.of_x] = load_tile(p.x, p.shape, sample, begin, count, buffers.operand[kAt.of_x]);
  if (step.needs[kAt.of_denoised]) {
    terms[kAt.of_denoised] = denoise(p, step, terms[kAt.of_x], sample, begin, count, buffers);
  }
  if (step.needs[kAt.of_output]) {
    terms[kAt.of_output] =
        load_tile(p.outputs[p.output_count - 1], p.shape, sample, begin, count, buffers.operand[kAt.of_output]);
  }
  for (int k = 0; k < kMostSlots; ++k) {
    const int at = kAt.of_slots + k;
    if (step.needs[at]) terms[at] = load_tile(p.slots[k], p.shape, sample, begin, count, buffers.operand[at]);
  }
  if (step.needs[kAt.of_noise]) terms[kAt.of_noise] = make_noise(p, step, row, sample, begin, count, buffers);
  // All three before any is stored: the state may be overwritten, and slots are.
  for (int s = 0; s < 3; ++s) {
    if (step.slots[s] >= 0) weighted_sum(step.sums[s], terms, kOperands, buffers.result[s], count);
  }
  for (int s = 0; s < 3; ++s) {
    if (step.slots[s] < 0) continue;
    const Operand& to = s == 0 ? p.next : p.slots[step.slots[s]];
    Real* place = tile_for_output(to, p.shape, sample, begin, buffers.result[s]);
    if (place != buffers.result[s]) memcpy(place, buffers.result[s], sizeof(Real) * count);
    store_tile(to, p.shape, sample, begin, count, buffers.result[s]);
  }
}

template <class Real>
void take_step(const StepParameters& p, int64_t first_unit, int64_t last_unit) {
  Buffers<Real> buffers;
  const int64_t rows_per_sample = p.partition.elements / p.row_size;
  for (int64_t index = first_unit; index < last_unit; ++index) {
    const Unit unit = unit_at(p.partition, index);
    const int64_t row = p.steps ? p.steps[unit.sample * rows_per_sample + unit.begin / p.row_size] : p.step;
    const Step<Real> step(p, unit.sample, row);
    for (int64_t begin = unit.begin; begin < unit.end; begin += kTile) {
      const int64_t count = kTile < unit.end - begin ? kTile : unit.end - begin;
      step_tile(p, step, row, unit.sample, begin, count, buffers);
    }
  }
}

template <class Real>
void add_products(const ProductsParameters& p, int64_t first_unit, int64_t last_unit) {
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
        sums[(j + 1) * n] += sum(in[j], count);
        for (int k = 0; k <= j; ++k) sums[(j + 1) * n + k + 1] += dot(in[j], in[k], count);
      }
    }
  }
}

}  // namespace

const Loops<StepParameters, ProductsParameters> solve_kernels = {{take_step<float>, take_step<double>},
                                                                 {add_products<float>, add_products<double>}};

}  // namespace visgen::VISGEN_ISA
