// The family `diffuse` on one instruction set: x_t = a·x + b·z (+ e·x₁) and target = c·x + d·z (+ f·x₁), and its
// backward.
//
// Per element: one normal number (a quarter of a Philox block and half a Box–Muller pair: about 50 vector instructions
// for a vector of them) and 2 fused multiply-adds an output. In memory: x read once, each output written once; the
// noise never leaves the first-level cache.
#include "../../ops/diffuse.h"

#include <initializer_list>

#include "../kernels.h"
#include "diffuse.h"
#include "stored.h"
#include "sums.h"

namespace visgen::VISGEN_ISA {
namespace {

template <class Real>
struct Buffers {
  alignas(64) Real x[kTile], endpoint[kTile], noise[kTile + kGroup], first[kTile], second[kTile];
  alignas(64) Real grad_x_t[kTile], grad_target[kTile];
};

// The noise of whole groups, from registers straight into the outputs; whether that has made them what they must be.
bool from_registers(const float* c, const PhiloxKey& key, uint64_t stream, int64_t begin, int64_t count, const float* x,
                    float* x_t, float* target) {
  for_each_normal_vector(key, stream, begin, count, [&](int64_t at, FloatVector z) {
    FloatVector signal, out;
    memcpy(&signal, x + at, sizeof(signal));
    out = c[0] * signal + c[1] * z;
    memcpy(x_t + at, &out, sizeof(out));
    if (!target) return;
    out = c[2] * signal + c[3] * z;
    memcpy(target + at, &out, sizeof(out));
  });
  return true;
}

#if defined(__AVX512BF16__)
bool from_registers(const float* c, const PhiloxKey& key, uint64_t stream, int64_t begin, int64_t count,
                    const BFloat16Bits* x, BFloat16Bits* x_t, BFloat16Bits* target) {
  if (!RoundsByInstruction::allows(c[0], c[1]) || (target && !RoundsByInstruction::allows(c[2], c[3]))) return false;
  RoundsByInstruction rounds;
  for (int64_t at = 0; at < count; at += kGroup) {
    const BlockWords words = philox_blocks(key, stream, static_cast<uint64_t>(begin + at) / 4);
    for (int i = 0; i < BlockWords::kSets; ++i) {
      const WordVector(&word)[4] = words.set[i];
      const int64_t set = at + i * kSet;
      FloatVector z[4], signal[4], out[4];
      normal_pair<WordVector>(word[0], word[1], z[0], z[1]);
      normal_pair<WordVector>(word[2], word[3], z[2], z[3]);
      take_set(x + set, signal);
      rounds.see(x + set, z);
      for (int j = 0; j < 4; ++j) out[j] = c[0] * signal[j] + c[1] * z[j];
      put_set(x_t + set, out);
      if (!target) continue;
      for (int j = 0; j < 4; ++j) out[j] = c[2] * signal[j] + c[3] * z[j];
      put_set(target + set, out);
    }
  }
  return rounds.saw_none();
}
#endif

// The commonest calls: contiguous float32, or bfloat16 where an instruction rounds to it; noise from seeds, one row of
// coefficients, no endpoint. With AVX-512's 32 registers the noise goes from them straight into the outputs, so that
// storing one group overlaps with computing the next: a fifth faster than through the cache. Works through whole
// groups, and returns how many elements those are.
template <class Stored>
int64_t forward_in_registers(const DiffuseParameters& p, const Unit& unit) {
  const bool one_row = p.partition.units_per_row > 1 || p.partition.row_size == p.partition.elements;
  if (kVectorBytes < 64 || !one_row || p.noise.data || p.endpoint.data || unit.begin % 4 != 0) return 0;
  for (const Operand* operand : {&p.x, &p.x_t, &p.target}) {
    const bool ready = operand->dtype == kStoredAs<Stored> && p.shape.dimensions == 1 && operand->strides[0] == 1;
    if (operand->data && !ready) return 0;
  }
  const int64_t rows_per_sample = p.partition.elements / p.partition.row_size;
  const int64_t row = unit.sample * rows_per_sample + unit.begin / p.partition.row_size;
  const auto at = [&](const Operand& operand) {
    return operand.data ? static_cast<Stored*>(operand.data) + unit.sample * operand.sample_stride + unit.begin
                        : nullptr;
  };
  const int64_t count = (unit.end - unit.begin) / kGroup * kGroup;
  const PhiloxKey key(static_cast<uint64_t>(p.seeds[unit.sample]));
  const float* c = static_cast<const float*>(p.coefficients) + row * p.coefficient_count;
  return from_registers(c, key, p.stream, unit.begin, count, at(p.x), at(p.x_t), at(p.target)) ? count : 0;
}

template <class Real>
void forward(const DiffuseParameters& p, int64_t first_unit, int64_t last_unit) {
  Buffers<Real> buffers;
  const Real* coefficients = static_cast<const Real*>(p.coefficients);
  for (int64_t index = first_unit; index < last_unit; ++index) {
    Unit unit = unit_at(p.partition, index);
    if constexpr (sizeof(Real) == 4) unit.begin += forward_in_registers<float>(p, unit);
#if defined(__AVX512BF16__)
    if constexpr (sizeof(Real) == 4) unit.begin += forward_in_registers<BFloat16Bits>(p, unit);
#endif
    for (int64_t begin = unit.begin; begin < unit.end; begin += kTile) {
      const int64_t count = kTile < unit.end - begin ? kTile : unit.end - begin;
      const Real* z = noise_tile(p, unit.sample, begin, count, buffers.noise);
      const Real* x = load_tile(p.x, p.shape, unit.sample, begin, count, buffers.x);
      const Real* endpoint =
          p.endpoint.data ? load_tile(p.endpoint, p.shape, unit.sample, begin, count, buffers.endpoint) : nullptr;
      Real* x_t = tile_for_output(p.x_t, p.shape, unit.sample, begin, buffers.first);
      Real* target = p.target.data ? tile_for_output(p.target, p.shape, unit.sample, begin, buffers.second) : nullptr;
      for_each_row(p, unit.sample, begin, count, [&](int64_t row, int64_t at, int64_t length) {
        const Real* c = coefficients + row * p.coefficient_count;
        combine(c[0], x + at, c[1], z + at, x_t + at, length);
        if (endpoint) add_scaled(c[4], endpoint + at, x_t + at, length);
        if (!target) return;
        combine(c[2], x + at, c[3], z + at, target + at, length);
        if (endpoint) add_scaled(c[5], endpoint + at, target + at, length);
      });
      store_tile(p.x_t, p.shape, unit.sample, begin, count, x_t);
      if (target) store_tile(p.target, p.shape, unit.sample, begin, count, target);
    }
  }
}

// Gradients of one row's coefficients, added up in double.
struct RowSums {
  int64_t row = -1;
  double value[6] = {0};
};

template <class Real>
void flush(const DiffuseBackwardParameters& p, int64_t unit, const RowSums& sums) {
  if (sums.row < 0) return;
  for (int j = 0; j < p.coefficient_count; ++j) {
    if (p.partition.units_per_row > 1) {
      p.partial_sums[unit * p.coefficient_count + j] = sums.value[j];
    } else {
      static_cast<Real*>(p.grad_coefficients)[sums.row * p.coefficient_count + j] = static_cast<Real>(sums.value[j]);
    }
  }
}

// The gradient of a signal (column 0: x, 1: noise, 2: endpoint), row by row: its coefficients weigh what arrives.
template <class Real>
void gradient_tile(const DiffuseBackwardParameters& p, const Operand& out, int column, int64_t sample, int64_t begin,
                   int64_t count, const Real* grad_x_t, const Real* grad_target, Real* buffer) {
  if (!out.data) return;
  Real* tile = tile_for_output(out, p.shape, sample, begin, buffer);
  for_each_row(p, sample, begin, count, [&](int64_t row, int64_t at, int64_t length) {
    const Real* c = static_cast<const Real*>(p.coefficients) + row * p.coefficient_count;
    const Real to_x_t = column < 2 ? c[column] : c[4], to_target = column < 2 ? c[column + 2] : c[5];
    combine(to_x_t, grad_x_t + at, to_target, grad_target + at, tile + at, length);
  });
  store_tile(out, p.shape, sample, begin, count, tile);
}

template <class Real>
const Real* gradient_or_zero(const Operand& operand, const DiffuseBackwardParameters& p, int64_t sample, int64_t begin,
                             int64_t count, Real* buffer) {
  if (operand.data) return load_tile(operand, p.shape, sample, begin, count, buffer);
  memset(buffer, 0, sizeof(Real) * count);
  return buffer;
}

template <class Real>
void backward(const DiffuseBackwardParameters& p, int64_t first_unit, int64_t last_unit) {
  Buffers<Real> buffers;
  for (int64_t index = first_unit; index < last_unit; ++index) {
    const Unit unit = unit_at(p.partition, index);
    RowSums sums;
    for (int64_t begin = unit.begin; begin < unit.end; begin += kTile) {
      const int64_t count = kTile < unit.end - begin ? kTile : unit.end - begin;
      const Real* g = gradient_or_zero(p.grad_x_t, p, unit.sample, begin, count, buffers.grad_x_t);
      const Real* h = gradient_or_zero(p.grad_target, p, unit.sample, begin, count, buffers.grad_target);
      gradient_tile(p, p.grad_x, 0, unit.sample, begin, count, g, h, buffers.first);
      gradient_tile(p, p.grad_noise, 1, unit.sample, begin, count, g, h, buffers.first);
      gradient_tile(p, p.grad_endpoint, 2, unit.sample, begin, count, g, h, buffers.first);
      if (!p.grad_coefficients) continue;
      const Real* signals[3] = {load_tile(p.x, p.shape, unit.sample, begin, count, buffers.x),
                                noise_tile(p, unit.sample, begin, count, buffers.noise), nullptr};
      if (p.endpoint.data) signals[2] = load_tile(p.endpoint, p.shape, unit.sample, begin, count, buffers.endpoint);
      for_each_row(p, unit.sample, begin, count, [&](int64_t row, int64_t at, int64_t length) {
        if (row != sums.row) {
          flush<Real>(p, index, sums);
          sums = RowSums{row, {0}};
        }
        for (int j = 0; j < p.coefficient_count; ++j) {
          const bool to_target = j == 2 || j == 3 || j == 5;
          const Real* signal = signals[j < 4 ? j % 2 : 2];
          sums.value[j] += dot((to_target ? h : g) + at, signal + at, length);
        }
      });
    }
    flush<Real>(p, index, sums);
  }
}

}  // namespace

const Loops<DiffuseParameters, DiffuseBackwardParameters> diffuse_kernels = {{forward<float>, forward<double>},
                                                                             {backward<float>, backward<double>}};

}  // namespace visgen::VISGEN_ISA
