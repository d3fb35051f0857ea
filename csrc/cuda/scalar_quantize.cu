// The family `scalar_quantize` on a GPU.
//
// Rows pass through shared memory, so that a block's accesses to memory are wide or at least neighbours while each
// thread works on a row: x read once, the results written once. Per element a hyperbolic tangent, or with entropies an
// exponential, a logarithm and two divisions.
//
// The tables of the batch entropy take, for a row and group of g bits, 2^g fused multiply-adds of an outer product of
// two tables of 2^(g/2) products in shared memory, two loads from there each; the backward takes twice that. They read
// x once more for every 2048 codes of a group (on the sphere, whole rows for every group), and the backward once more.
// Sums go over the rows of a unit in one block, then over units, always in the same order.
//
// The ceiling is the speed of memory, and for tables that of shared memory. All this is counted: no GPU has measured
// what share of either it reaches.
#include "../ops/scalar_quantize_call.h"

#include "tile.cuh"
#include "warp.cuh"

namespace visgen {
namespace {

// Each a thread; in shared memory, two copies of the widest rows take 63 KB.
template <class Real>
constexpr int kRowsInBlock = 512 / sizeof(Real);
constexpr int kSpan = 4;           // elements of an access
constexpr int kCodesInThread = 8;  // of a table, in registers
constexpr int kCodesInBlock = kBlockThreads * kCodesInThread;

__host__ __device__ __forceinline__ int pitch(int columns) { return columns | 1; }  // rows in different banks

// Rows from `first` on into shared memory, and back; the block's threads take elements in turn.
template <bool wide, class Real>
__device__ __forceinline__ void load_rows(const CodeRows& p, const Operand& operand, int64_t first, Real* rows) {
  const int64_t begin = first * p.columns;
  for (int at = threadIdx.x * kSpan; at < kRowsInBlock<Real> * p.columns; at += blockDim.x * kSpan) {
    if (begin + at >= p.shape.elements) break;
    Real values[kSpan];
    load_tile<wide>(operand, p.shape, 0, begin + at, values);
    VISGEN_UNROLL
    for (int i = 0; i < kSpan; ++i) rows[(at + i) / p.columns * pitch(p.columns) + (at + i) % p.columns] = values[i];
  }
}

template <bool wide, class Real>
__device__ __forceinline__ void store_rows(const CodeRows& p, const Operand& operand, int64_t first, const Real* rows) {
  const int64_t begin = first * p.columns;
  for (int at = threadIdx.x * kSpan; at < kRowsInBlock<Real> * p.columns; at += blockDim.x * kSpan) {
    if (begin + at >= p.shape.elements) break;
    Real values[kSpan];
    VISGEN_UNROLL
    for (int i = 0; i < kSpan; ++i) {
      const bool exists = wide || begin + at + i < p.shape.elements;
      values[i] = exists ? rows[(at + i) / p.columns * pitch(p.columns) + (at + i) % p.columns] : Real(0);
    }
    store_tile<wide>(operand, p.shape, 0, begin + at, values);
  }
}

template <class Real>
__device__ __forceinline__ int64_t first_row() {
  return static_cast<int64_t>(blockIdx.x) * kRowsInBlock<Real>;
}

template <class Real>
__device__ __forceinline__ Real not_a_number() {
  return static_cast<Real>(cuda::bits_as<float>(0x7FC00000u));
}

__device__ __forceinline__ bool is_finite(double value) { return value - value == 0; }

// A row with NaN has code 0, and NaN for everything else.
template <class Real>
__device__ __forceinline__ void write_code(const CodeRows& p, int64_t row, int64_t code, bool has_nan, Real* values) {
  p.codes[row] = has_nan ? 0 : code;
  for (int j = 0; has_nan && j < p.columns; ++j) values[j] = not_a_number<Real>();
}

// --- finite scalar quantization

template <class Real>
__device__ __forceinline__ Real rounded(Real value) {
  constexpr Real kIntegers = sizeof(Real) == 4 ? Real(12582912) : Real(6755399441055744);
  return (value + kIntegers) - kIntegers;
}

// The same with the columns' numbers in the arithmetic's type: a GPU is slow to convert.
template <class Real>
FiniteScalarRows<Real> converted(const FiniteScalarParameters& p) {
  FiniteScalarRows<Real> result{p, p.round_half_up, {}};
  for (int j = 0; j < p.columns; ++j) {
    const LevelColumn<double>& from = p.column[j];
    result.column[j] = {static_cast<Real>(from.shift),
                        static_cast<Real>(from.half),
                        static_cast<Real>(from.offset),
                        static_cast<Real>(from.lowest),
                        static_cast<Real>(from.step),
                        static_cast<Real>(from.origin),
                        from.levels};
  }
  return result;
}

template <class Real, bool wide>
__global__ void __launch_bounds__(kRowsInBlock<Real>) finite_scalar(FiniteScalarRows<Real> p) {
  Real* rows = dynamic_shared<Real>();
  load_rows<wide>(p, p.x, first_row<Real>(), rows);
  sync_block();
  const int64_t row = first_row<Real>() + threadIdx.x;
  if (row < p.rows) {
    Real* values = rows + threadIdx.x * pitch(p.columns);
    int64_t code = 0;
    bool has_nan = false;
    for (int j = p.columns - 1; j >= 0; --j) {  // the first column is the least significant
      const LevelColumn<Real>& column = p.column[j];
      has_nan |= values[j] != values[j];
      Real bounded = cuda::hyperbolic_tangent(values[j] + column.shift) * column.half - column.offset;
      if (p.round_half_up) bounded += Real(0.5);
      Real level = rounded(bounded);
      if (p.round_half_up && level > bounded) level -= 1;  // floor
      level = has_nan ? Real(0) : level - column.lowest;
      code = code * column.levels + static_cast<int32_t>(level);
      values[j] = (level * column.step - column.origin) / column.origin;
    }
    write_code(p, row, code, has_nan, values);
  }
  sync_block();
  store_rows<wide>(p, p.quantized, first_row<Real>(), rows);
}

template <class Real, bool wide>
__global__ void __launch_bounds__(kRowsInBlock<Real>) finite_scalar_backward(FiniteScalarRows<Real> p) {
  Real* rows = dynamic_shared<Real>();
  Real* incoming = rows + kRowsInBlock<Real> * pitch(p.columns);
  load_rows<wide>(p, p.x, first_row<Real>(), rows);
  load_rows<wide>(p, p.quantized, first_row<Real>(), incoming);
  sync_block();
  for (int j = 0; first_row<Real>() + threadIdx.x < p.rows && j < p.columns; ++j) {
    const LevelColumn<Real>& column = p.column[j];
    const int at = threadIdx.x * pitch(p.columns) + j;
    const Real tangent = cuda::hyperbolic_tangent(rows[at] + column.shift);
    rows[at] = incoming[at] * (column.half * column.step / column.origin) * (1 - tangent * tangent);
  }
  sync_block();
  store_rows<wide>(p, p.grad_x, first_row<Real>(), rows);
}

template <bool wide>
__global__ void __launch_bounds__(kRowsInBlock<double>) finite_scalar_decode(FiniteScalarParameters p) {
  double* rows = dynamic_shared<double>();
  const int64_t row = first_row<double>() + threadIdx.x;
  if (row < p.rows) {
    double* values = rows + threadIdx.x * pitch(p.columns);
    int64_t rest = p.codes[row];
    bool is_code = rest >= 0;
    for (int j = 0; j < p.columns; ++j) {
      const LevelColumn<double>& column = p.column[j];
      const int64_t left = divide(rest, column.levels), level = rest - left * column.levels;
      values[j] = (level * column.step - column.origin) / column.origin;
      rest = left;
    }
    is_code &= rest == 0;
    for (int j = 0; !is_code && j < p.columns; ++j) values[j] = not_a_number<double>();
  }
  sync_block();
  store_rows<wide>(p, p.quantized, first_row<double>(), rows);
}

// --- binary quantization

// What turns x into u: 1, or radius / ‖x‖.
template <class Real, class Read>
__device__ __forceinline__ double factor_of_row(const BinaryParameters& p, Read read) {
  if (p.radius == 0) return 1;
  double squares = 0;
  for (int j = 0; j < p.columns; ++j) {
    const double value = read(j);
    squares += value * value;
  }
  const double norm = ::sqrt(squares);
  return p.radius / (norm < 1e-12 ? 1e-12 : norm);
}

template <class Real>
__device__ __forceinline__ Real logit_of(const BinaryParameters& p, Real u) {
  constexpr Real kMost = 1000;  // keeps infinite logits from giving ∞·0
  const Real logit = u * static_cast<Real>(p.logit_of_u);
  return logit > kMost ? kMost : logit < -kMost ? -kMost : logit;
}

// A bit's soft assignment: its logit, the probabilities that it is set and not, the entropy.
template <class Real>
struct Bit {
  Real logit, set, unset, entropy;
};

template <class Real>
__device__ __forceinline__ Bit<Real> bit_of(const BinaryParameters& p, Real u) {
  const Real logit = logit_of(p, u), magnitude = logit < 0 ? -logit : logit;
  const Real decay = cuda::exponential(-magnitude), likely = 1 / (decay + 1), unlikely = decay * likely;
  return {logit, logit < 0 ? unlikely : likely, logit < 0 ? likely : unlikely,
          cuda::logarithm_of_one_plus(decay) + magnitude * unlikely};
}

template <class Real, bool wide>
__global__ void __launch_bounds__(kRowsInBlock<Real>) binary(BinaryParameters p) {
  Real* rows = dynamic_shared<Real>();
  load_rows<wide>(p, p.x, first_row<Real>(), rows);
  sync_block();
  const int64_t row = first_row<Real>() + threadIdx.x;
  if (row < p.rows) {
    Real* values = rows + threadIdx.x * pitch(p.columns);
    const double factor = factor_of_row<Real>(p, [&](int j) { return values[j]; });
    int64_t code = 0;
    bool has_nan = false;
    Real entropy = 0, lost = 0;
    for (int j = 0; j < p.columns; ++j) {
      const Real u = p.radius == 0 ? values[j] : static_cast<Real>(values[j] * factor);
      has_nan |= u != u;
      code = code * 2 + (u > 0);
      if (p.with_entropy) cuda::add_compensated(bit_of(p, u).entropy, entropy, lost);
      values[j] = static_cast<Real>(u > 0 ? p.corner : -p.corner);
    }
    write_code(p, row, code, has_nan, values);
    if (p.with_entropy) static_cast<Real*>(p.sample_entropy)[row] = entropy;
  }
  sync_block();
  store_rows<wide>(p, p.quantized, first_row<Real>(), rows);
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
__device__ __forceinline__ Real element(const CodeRows& p, int64_t row, int column) {
  Real value[1];
  load_tile<false>(p.x, p.shape, 0, row * p.columns + column, value);
  return value[0];
}

template <class Real>
__device__ __forceinline__ void load_bits(const BinaryParameters& p, const Group& group, const BitRows<Real>& block) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < block.count) {
    block.factor[t] = factor_of_row<Real>(p, [&](int j) { return element<Real>(p, block.first + t, j); });
  }
  sync_block();  // the factors are there, and nobody needs the last rows' tables any more
  for (int at = t; at < group.bits * block.rows; at += kBlockThreads) {
    const int row = at % block.rows, bit = at / block.rows;
    if (row >= block.count) continue;
    const Real x = element<Real>(p, block.first + row, group.first + bit);
    const Bit<Real> made = bit_of(p, p.radius == 0 ? x : static_cast<Real>(x * block.factor[row]));
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
__device__ __forceinline__ BitRows<Real> bit_rows(const BinaryParameters& p, int rows) {
  double* factor = dynamic_shared<double>();
  Real* set = reinterpret_cast<Real*>(factor + rows);
  return {0, rows, 0, rows | 1, factor, set, set + p.group_bits * rows};
}

template <class Real>
LaunchShape bit_rows_grid(const BinaryParameters& p, int tables, dim3 grid, int& rows) {
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
__device__ __forceinline__ void write_gradients(const BinaryParameters& p, const Group& group,
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
    static_cast<Real*>(p.grad_logits)[(block.first + row) * p.columns + group.first + first_bit + bit] =
        sum * (set * unset);
  }
}

// One block: some rows and a group.
template <class Real>
__global__ void __launch_bounds__(kBlockThreads) surprisal_gradients(BinaryParameters p, int rows) {
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
  if (half == 0) write_gradients(p, group, block, row, 0, group.high, of_high, high);
  if (half == 1) write_gradients(p, group, block, row, group.high, group.low, of_low, low);
}

template <class Real, bool wide>
__global__ void __launch_bounds__(kRowsInBlock<Real>) binary_backward(BinaryParameters p) {
  Real* rows = dynamic_shared<Real>();
  Real* incoming = rows + kRowsInBlock<Real> * pitch(p.columns);
  load_rows<wide>(p, p.x, first_row<Real>(), rows);
  if (p.quantized.data) load_rows<wide>(p, p.quantized, first_row<Real>(), incoming);
  sync_block();
  const int64_t row = first_row<Real>() + threadIdx.x;
  if (row < p.rows) {
    Real *x = rows + threadIdx.x * pitch(p.columns), *gradient = incoming + threadIdx.x * pitch(p.columns);
    const double factor = factor_of_row<Real>(p, [&](int j) { return x[j]; });
    const Real of_sample = p.sample_entropy ? static_cast<const Real*>(p.sample_entropy)[row] : Real(0);
    const Real of_batch =
        p.batch_entropy ? *static_cast<const Real*>(p.batch_entropy) / static_cast<Real>(p.rows) : Real(0);
    double along = 0;
    for (int j = 0; j < p.columns; ++j) {
      const Real u = p.radius == 0 ? x[j] : static_cast<Real>(x[j] * factor);
      Real sum = p.quantized.data && is_finite(u) ? gradient[j] : Real(0);  // straight through
      if (p.sample_entropy || p.batch_entropy) {
        const Bit<Real> bit = bit_of(p, u);
        Real of_logit = -of_sample * bit.logit * (bit.set * bit.unset);
        if (p.batch_entropy) of_logit += of_batch * static_cast<const Real*>(p.grad_logits)[row * p.columns + j];
        sum += of_logit * static_cast<Real>(p.logit_of_u);
      }
      gradient[j] = sum;
      along += static_cast<double>(sum) * x[j];
    }
    // What points away from the sphere is lost; where the norm is below its bound, it is no function of x.
    const double unit = factor / p.radius;
    along = unit < 1e12 ? along * unit * unit : 0;
    for (int j = 0; j < p.columns; ++j) {
      x[j] = p.radius == 0 ? gradient[j] : static_cast<Real>((gradient[j] - along * x[j]) * factor);
    }
  }
  sync_block();
  store_rows<wide>(p, p.grad_x, first_row<Real>(), rows);
}

template <bool wide>
__global__ void __launch_bounds__(kRowsInBlock<double>) binary_decode(BinaryParameters p) {
  double* rows = dynamic_shared<double>();
  const int64_t row = first_row<double>() + threadIdx.x;
  if (row < p.rows) {
    double* values = rows + threadIdx.x * pitch(p.columns);
    const int64_t code = p.codes[row];
    for (int j = 0; j < p.columns; ++j) {
      const double value = code >> (p.columns - 1 - j) & 1 ? p.corner : -p.corner;
      values[j] = code >> p.columns ? not_a_number<double>() : value;
    }
  }
  sync_block();
  store_rows<wide>(p, p.quantized, first_row<double>(), rows);
}

bool all_wide(const CodeRows& p) {
  for (const Operand* operand : {&p.x, &p.quantized, &p.grad_x}) {
    if (operand->data && !is_wide(*operand, p.shape, kSpan)) return false;
  }
  return true;
}

// One thread a row, with `copies` of the rows in shared memory.
template <class Real>
LaunchShape row_grid(const CodeRows& p, int copies) {
  const int64_t blocks = (p.rows + kRowsInBlock<Real> - 1) / kRowsInBlock<Real>;
  return {dim3(static_cast<unsigned>(blocks)), dim3(kRowsInBlock<Real>),
          sizeof(Real) * copies * kRowsInBlock<Real> * pitch(p.columns)};
}

// Calls kernel(wide) as constants with the arithmetic's type: float64's accesses are too wide to need it.
template <class Call>
void choose_access(const CodeRows& p, Call call) {
  if (p.in_double) return call.template operator()<double, false>();
  if (all_wide(p)) return call.template operator()<float, true>();
  call.template operator()<float, false>();
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
void launch_gradients(const BinaryParameters& p, Stream stream) {
  const Group group = group_at(p, 0);
  int rows = 0;
  LaunchShape shape = bit_rows_grid<Real>(p, 2 * ((1 << group.low) + (1 << group.high)), dim3(), rows);
  shape.grid = dim3(static_cast<unsigned>((p.rows + rows - 1) / rows), static_cast<unsigned>(p.groups));
  launch<surprisal_gradients<Real>>(shape, stream, p, rows);
}

struct OnCuda {
  static constexpr bool kNeedsGradLogits = true;

  static void quantize(const FiniteScalarParameters& p, int32_t device) {
    const OnDevice guard(device);
    choose_access(p, [&]<class Real, bool wide>() {
      launch<finite_scalar<Real, wide>>(row_grid<Real>(p, 1), current_stream(device), converted<Real>(p));
    });
  }

  static void backward(const FiniteScalarParameters& p, int32_t device) {
    const OnDevice guard(device);
    choose_access(p, [&]<class Real, bool wide>() {
      launch<finite_scalar_backward<Real, wide>>(row_grid<Real>(p, 2), current_stream(device), converted<Real>(p));
    });
  }

  static void decode(const FiniteScalarParameters& p, int32_t device) {
    const OnDevice guard(device);
    const LaunchShape shape = row_grid<double>(p, 1);
    all_wide(p) ? launch<finite_scalar_decode<true>>(shape, current_stream(device), p)
                : launch<finite_scalar_decode<false>>(shape, current_stream(device), p);
  }

  static void quantize(const BinaryParameters& p, int32_t device) {
    const OnDevice guard(device);
    const Stream stream = current_stream(device);
    choose_access(p, [&]<class Real, bool wide>() {
      launch<binary<Real, wide>>(row_grid<Real>(p, 1), stream, p);
      if (p.with_entropy) launch_tables<Real>(p, stream);
    });
  }

  static void backward(const BinaryParameters& p, int32_t device) {
    const OnDevice guard(device);
    const Stream stream = current_stream(device);
    choose_access(p, [&]<class Real, bool wide>() {
      if (p.batch_entropy) launch_gradients<Real>(p, stream);
      launch<binary_backward<Real, wide>>(row_grid<Real>(p, 2), stream, p);
    });
  }

  static void decode(const BinaryParameters& p, int32_t device) {
    const OnDevice guard(device);
    const LaunchShape shape = row_grid<double>(p, 1);
    all_wide(p) ? launch<binary_decode<true>>(shape, current_stream(device), p)
                : launch<binary_decode<false>>(shape, current_stream(device), p);
  }
};

}  // namespace

VISGEN_REGISTER(CUDA, m) { ScalarQuantizeOperations<OnCuda>::add_to(m); }

}  // namespace visgen
