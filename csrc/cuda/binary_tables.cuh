// The tables of the batch entropy, and its gradient into the logits.
//
// They take, for a row and group of g bits, 2^g fused multiply-adds of an outer product of two tables of 2^(g/2)
// products in shared memory, two loads from there each; the backward takes twice that. They read x once more for every
// 2048 codes of a group (on the sphere, whole rows for every group), and the backward once more. Sums go over the rows
// of a unit in one block, then over units, always in the same order. The ceiling is the speed of shared memory. All
// this is counted: no GPU has measured what share of it they reach.
#pragma once

#include "../ops/binary_quantize.h"
#include "code_rows.cuh"
#include "warp.cuh"

namespace visgen {

constexpr int kCodesInThread = 8;  // of a table, in registers
constexpr int kCodesInBlock = kBlockThreads * kCodesInThread;

// What turns x into u: 1, or radius / ‖x‖.
template <class Real, class Read>
__device__ __forceinline__ double factor_of_row(const BinaryRows& p, Read read) {
  if (p.radius == 0) return 1;
  double squares = 0;
  for (int j = 0; j < p.columns; ++j) {
    const double value = read(j);
    squares += value * value;
  }
  const double norm = ::sqrt(squares);
  return p.radius / (norm < 1e-12 ? 1e-12 : norm);
}

__device__ __forceinline__ float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) { return fma(a, b, c); }

// A bit's logit, and the little that rounding took from it: large ones would lose what small entropies are made of.
template <class Real>
struct Logit {
  Real value, rest;
};

// Of an element of x in a row that is multiplied by `factor` to become u.
template <class Real>
__device__ __forceinline__ Logit<Real> logit_of(const BinaryRows& p, Real x, double factor) {
  constexpr Real kMost = 1000;  // keeps infinite logits from giving ∞·0
  const double exact = factor * p.logit_of_u;
  const Real high = static_cast<Real>(exact), low = static_cast<Real>(exact - high), value = x * high;
  if (value > kMost) return {kMost, Real(0)};
  if (value < -kMost) return {-kMost, Real(0)};
  return {value, multiply_add(x, high, -value) + x * low};
}

// A bit's soft assignment: its logit, the probabilities that it is set and not, the entropy.
template <class Real>
struct Bit {
  Real logit, set, unset, entropy;
};

template <class Real>
__device__ __forceinline__ Bit<Real> bit_of(const Logit<Real>& given) {
  const Real logit = given.value, magnitude = logit < 0 ? -logit : logit;
  const Real decay = cuda::exponential(-magnitude), likely = 1 / (decay + 1), unlikely = decay * likely;
  const Real change = unlikely * likely * given.rest;  // of the probability that the bit is set
  return {logit, (logit < 0 ? unlikely : likely) + change, (logit < 0 ? likely : unlikely) - change,
          cuda::logarithm_of_one_plus(decay) + magnitude * unlikely - logit * change};
}

// The rows that a block of a table's kernel works on at a time: `rows` from `first` on, and their bits of one group in
// shared memory, probabilities that are set[bit·rows + row] and unset.
template <class Real>
struct BitRows {
  int64_t first;
  int rows, count;  // count: those that exist
  int pitch;        // of the tables, table[code·pitch + row]: odd, so that neighbours of either kind are in other banks
  double* factor;
  Real *set, *unset;
};

// An element of x in the arithmetic's type.
template <class Real>
__device__ __forceinline__ Real element(const BinaryRows& p, int64_t row, int column) {
  Real value[1];
  load_tile<false>(p.x, p.shape, 0, row * p.columns + column, value);
  return value[0];
}

template <class Real>
__device__ __forceinline__ void load_bits(const BinaryRows& p, const Group& group, const BitRows<Real>& block) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < block.count) {
    block.factor[t] = factor_of_row<Real>(p, [&](int j) { return element<Real>(p, block.first + t, j); });
  }
  sync_block();  // the factors are there, and nobody needs the last rows' tables any more
  for (int at = t; at < group.bits * block.rows; at += kBlockThreads) {
    const int row = at % block.rows, bit = at / block.rows;
    if (row >= block.count) continue;
    const Real x = element<Real>(p, block.first + row, group.first + bit);
    const Bit<Real> made = bit_of(logit_of(p, x, block.factor[row]));
    block.set[at] = made.set;
    block.unset[at] = made.unset;
  }
  sync_block();
}

// The probability of `code`, whose most significant of `bits` bits is the group's bit `first_bit`.
template <class Real>
__device__ __forceinline__ Real product(const BitRows<Real>& block, int row, int first_bit, int bits, int code) {
  Real result = 1;
  for (int bit = bits - 1; bit >= 0; --bit) {
    const int at = (first_bit + bit) * block.rows + row;
    result *= code >> (bits - 1 - bit) & 1 ? block.set[at] : block.unset[at];
  }
  return result;
}

// Codes first_code … first_code + count − 1 of a half.
template <class Real>
__device__ __forceinline__ void make_table(const BitRows<Real>& block, int first_bit, int bits, int first_code,
                                           int count, Real* table) {
  for (int at = threadIdx.x; at < count * block.rows; at += kBlockThreads) {
    const int row = at % block.rows, code = at / block.rows;
    table[code * block.pitch + row] =
        row < block.count ? product(block, row, first_bit, bits, first_code + code) : Real(0);
  }
}

// Shared memory: the rows' factors, their bits, then `tables` numbers a row.
template <class Real>
__device__ __forceinline__ BitRows<Real> bit_rows(const BinaryRows& p, int rows) {
  double* factor = dynamic_shared<double>();
  Real* set = reinterpret_cast<Real*>(factor + rows);
  return {0, rows, 0, rows | 1, factor, set, set + p.group_bits * rows};
}

template <class Real>
LaunchShape bit_rows_grid(const BinaryRows& p, int tables, dim3 grid, int& rows) {
  constexpr size_t kMostBytes = 40 * 1024;
  const auto bytes = [&](int count) {
    return count * (sizeof(double) + 2 * p.group_bits * sizeof(Real)) + (count | 1) * tables * sizeof(Real);
  };
  rows = 32;
  while (rows > 1 && bytes(rows) > kMostBytes) rows /= 2;
  return {grid, dim3(kBlockThreads), bytes(rows)};
}

// How many codes of the high half a block's part of a table covers.
__host__ __device__ __forceinline__ int high_codes_in_block(const Group& group) {
  const int most = kCodesInBlock >> group.low;
  return (1 << group.high) < most ? 1 << group.high : most;
}

// One block: a unit's rows, a group, and a part of its table.
template <class Real>
__global__ void __launch_bounds__(kBlockThreads) add_probabilities(BinaryParameters p, int rows) {
  const Group group = group_at(p, static_cast<int>(blockIdx.y));
  const int low_codes = 1 << group.low, high_count = high_codes_in_block(group);
  const int first_high = static_cast<int>(blockIdx.x) * high_count, codes = high_count * low_codes;
  if (first_high >= 1 << group.high) return;
  BitRows<Real> block = bit_rows<Real>(p, rows);
  Real* low = block.unset + p.group_bits * rows;
  Real* high = low + low_codes * block.pitch;
  const Unit unit = unit_at(p.partition, blockIdx.z);
  const int64_t last = unit.end / p.columns;
  int of_high[kCodesInThread], of_low[kCodesInThread];  // where a thread's codes find their factors
  VISGEN_UNROLL
  for (int s = 0; s < kCodesInThread; ++s) {
    const int code = (static_cast<int>(threadIdx.x) + s * kBlockThreads) % codes;  // what is beyond is not stored
    of_high[s] = (code >> group.low) * block.pitch;
    of_low[s] = (code & (low_codes - 1)) * block.pitch;
  }
  double sums[kCodesInThread] = {};
  for (block.first = unit.begin / p.columns; block.first < last; block.first += rows) {
    block.count = static_cast<int>(last - block.first < rows ? last - block.first : rows);
    load_bits(p, group, block);
    make_table(block, group.high, group.low, 0, low_codes, low);
    make_table(block, 0, group.high, first_high, high_count, high);
    sync_block();
    Real sum[kCodesInThread] = {};
    for (int t = 0; t < block.count; ++t) {
      VISGEN_UNROLL
      for (int s = 0; s < kCodesInThread; ++s) {
        if (s * kBlockThreads < codes) sum[s] += high[of_high[s] + t] * low[of_low[s] + t];
      }
    }
    VISGEN_UNROLL
    for (int s = 0; s < kCodesInThread; ++s) sums[s] += sum[s];
  }
  double* table = p.probability_sums + blockIdx.z * p.entries() + (static_cast<int64_t>(blockIdx.y) << p.group_bits);
  VISGEN_UNROLL
  for (int s = 0; s < kCodesInThread; ++s) {
    const int code = static_cast<int>(threadIdx.x) + s * kBlockThreads;
    if (code < codes) table[first_high * low_codes + code] = sums[s];
  }
}

static_assert(kChunk == kBlockThreads);

// One thread an entry of the tables: over the units, then over the chunk.
template <class Real>
__global__ void __launch_bounds__(kBlockThreads) add_units(BinaryParameters p) {
  constexpr double kSmallest = sizeof(Real) == 4 ? 0x1p-126 : 0x1p-1022;
  const int64_t entry = static_cast<int64_t>(blockIdx.x) * kChunk + threadIdx.x;
  double entropy = 0;
  if (entry < p.entries()) {
    double mean = 0;
    for (int64_t unit = 0; unit < p.partition.units_per_sample; ++unit) {
      mean += p.probability_sums[unit * p.entries() + entry];
    }
    mean /= static_cast<double>(p.rows);
    const double surprisal = -::log(mean < kSmallest ? kSmallest : mean);
    static_cast<Real*>(p.surprisal)[entry] = static_cast<Real>(surprisal);
    entropy = mean * surprisal;
  }
  entropy = block_sum(entropy);
  if (threadIdx.x == 0) p.entropy_sums[blockIdx.x] = entropy;
}

template <class Real>
__global__ void __launch_bounds__(kBlockThreads) add_chunks(BinaryParameters p) {
  double entropy = 0;
  for (int64_t chunk = threadIdx.x; chunk * kChunk < p.entries(); chunk += kBlockThreads) {
    entropy += p.entropy_sums[chunk];
  }
  entropy = block_sum(entropy);
  if (threadIdx.x == 0) *static_cast<Real*>(p.batch_entropy) = static_cast<Real>(entropy);
}

// out[o·pitch + row] = Σ_m surprisal[o·out_step + m·in_step]·in[m·pitch + row]
template <class Real>
__device__ __forceinline__ void contract(const BitRows<Real>& block, const Real* surprisal, int out_step, int in_step,
                                         int out_count, int in_count, const Real* in, Real* out) {
  for (int at = threadIdx.x; at < out_count * block.rows; at += kBlockThreads) {
    const int row = at % block.rows, code = at / block.rows;
    const Real* table = surprisal + static_cast<int64_t>(code) * out_step;
    Real sum = 0;
    for (int m = 0; m < in_count; ++m) sum += table[static_cast<int64_t>(m) * in_step] * in[m * block.pitch + row];
    out[code * block.pitch + row] = sum;
  }
}

// One thread a row and half: what the row's mean surprisal changes by when a bit is set rather than not, times the
// derivative of the bit's probability. `mean` and `probability` are folded bit by bit, the least significant first.
template <class Real>
__device__ __forceinline__ void write_gradients(const BinaryRows& p, Real* grad_logits, const Group& group,
                                                const BitRows<Real>& block, int row, int first_bit, int bits,
                                                Real* mean, Real* probability) {
  for (int bit = bits - 1; bit >= 0; --bit) {
    const Real set = block.set[(first_bit + bit) * block.rows + row];
    const Real unset = block.unset[(first_bit + bit) * block.rows + row];
    Real sum = 0;
    for (int m = 0; m < 1 << bit; ++m) {
      const int at = m * block.pitch + row, even = 2 * m * block.pitch + row, odd = even + block.pitch;
      const Real difference = mean[odd] - mean[even], weight = probability[odd] + probability[even];
      mean[at] = mean[even] + set * difference;
      probability[at] = weight;
      sum += weight * difference;
    }
    grad_logits[(block.first + row) * p.columns + group.first + first_bit + bit] = sum * (set * unset);
  }
}

// One block: some rows and a group.
template <class Real>
__global__ void __launch_bounds__(kBlockThreads)
    surprisal_gradients(BinaryBackwardParameters p, Real* grad_logits, int rows) {
  const Group group = group_at(p, static_cast<int>(blockIdx.y));
  const int low_codes = 1 << group.low, high_codes = 1 << group.high;
  const Real* surprisal = static_cast<const Real*>(p.surprisal) + (static_cast<int64_t>(blockIdx.y) << p.group_bits);
  BitRows<Real> block = bit_rows<Real>(p, rows);
  Real* low = block.unset + p.group_bits * rows;
  Real* high = low + low_codes * block.pitch;
  Real* of_low = high + high_codes * block.pitch;
  Real* of_high = of_low + low_codes * block.pitch;
  block.first = static_cast<int64_t>(blockIdx.x) * rows;
  block.count = static_cast<int>(p.rows - block.first < rows ? p.rows - block.first : rows);
  load_bits(p, group, block);
  make_table(block, group.high, group.low, 0, low_codes, low);
  make_table(block, 0, group.high, 0, high_codes, high);
  sync_block();
  contract(block, surprisal, low_codes, 1, high_codes, low_codes, low, of_high);
  contract(block, surprisal, 1, low_codes, low_codes, high_codes, high, of_low);
  sync_block();
  const int row = static_cast<int>(threadIdx.x) % kWarpSize, half = warp_index();
  if (row >= block.count) return;
  if (half == 0) write_gradients(p, grad_logits, group, block, row, 0, group.high, of_high, high);
  if (half == 1) write_gradients(p, grad_logits, group, block, row, group.high, group.low, of_low, low);
}

template <class Real>
void launch_tables(const BinaryParameters& p, Stream stream) {
  const Group group = group_at(p, 0);
  const int high_count = high_codes_in_block(group);
  const dim3 grid(static_cast<unsigned>((1 << group.high) / high_count), static_cast<unsigned>(p.groups),
                  static_cast<unsigned>(p.partition.units()));
  int rows = 0;
  const LaunchShape shape = bit_rows_grid<Real>(p, (1 << group.low) + high_count, grid, rows);
  launch<add_probabilities<Real>>(shape, stream, p, rows);
  const dim3 chunks(static_cast<unsigned>((p.entries() + kChunk - 1) / kChunk));
  launch<add_units<Real>>({chunks, dim3(kBlockThreads)}, stream, p);
  launch<add_chunks<Real>>({dim3(1), dim3(kBlockThreads)}, stream, p);
}

template <class Real>
void launch_gradients(const BinaryBackwardParameters& p, Real* grad_logits, Stream stream) {
  const Group group = group_at(p, 0);
  int rows = 0;
  LaunchShape shape = bit_rows_grid<Real>(p, 2 * ((1 << group.low) + (1 << group.high)), dim3(), rows);
  shape.grid = dim3(static_cast<unsigned>((p.rows + rows - 1) / rows), static_cast<unsigned>(p.groups));
  launch<surprisal_gradients<Real>>(shape, stream, p, grad_logits, rows);
}

}  // namespace visgen
