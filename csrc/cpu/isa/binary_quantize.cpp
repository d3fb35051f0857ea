// The family `binary_quantize` on one instruction set. With entropies an element costs an exponential, a logarithm and
// two divisions, and a row and group of g bits two tables of 2^(g/2) products each and 2^g fused multiply-adds. In
// memory: x read once, the results written once.
#include "../../ops/binary_quantize.h"

#include "../kernels.h"
#include "code_rows.h"

namespace visgen::VISGEN_ISA {
namespace {

constexpr int kTableSize = 1024;  // codes of half a group, at most

// What each row of x is multiplied with to become u.
template <class Real>
void find_factors(const BinaryRows& p, const Columns<Real>& x, double* factor) {
  for (int t = 0; t < kRows; ++t) factor[t] = 1;
  if (p.radius == 0) return;
  double squares[kRows] = {};
  for (int j = 0; j < p.columns; ++j) {
    for (int t = 0; t < kRows; ++t) squares[t] += static_cast<double>(x.value[j][t]) * x.value[j][t];
  }
  for (int t = 0; t < kRows; ++t) {
    const double norm = __builtin_sqrt(squares[t]);
    factor[t] = p.radius / (norm < 1e-12 ? 1e-12 : norm);
  }
}

// x to u, in place.
template <class Real>
void to_sphere(const BinaryRows& p, const double* factor, Columns<Real>& x) {
  for (int j = 0; p.radius != 0 && j < p.columns; ++j) {
    for (int t = 0; t < kRows; ++t) x.value[j][t] = static_cast<Real>(x.value[j][t] * factor[t]);
  }
}

// The logits of the bits, and what rounding took from them: large ones would lose what small entropies are made of.
template <class Real>
void find_logits(const BinaryRows& p, const Columns<Real>& x, const double* factor, Columns<Real>& logits,
                 Columns<Real>& rest) {
  double product[kRows];
  for (int t = 0; t < kRows; ++t) product[t] = factor[t] * p.logit_of_u;
  for (int j = 0; j < p.columns; ++j) {
    for (int t = 0; t < kRows; ++t) {
      const double exact = x.value[j][t] * product[t];
      logits.value[j][t] = static_cast<Real>(exact);
      rest.value[j][t] = static_cast<Real>(exact - logits.value[j][t]);
    }
  }
}

// What a bit's soft assignment is: its logit, the probabilities that it is set and not, the entropy.
template <class Real>
struct Bit {
  Lane<Real> logit, set, unset, entropy;
};

// Of a logit and the little that it lacks.
template <class Real>
Bit<Real> bit_of(Lane<Real> logit, Lane<Real> rest) {
  constexpr Real kMost = 1000;  // keeps infinite logits from giving ∞·0
  Lane<Real> magnitude = logit < Real(0) ? -logit : logit;
  rest = magnitude > kMost ? Lane<Real>{} : rest;
  magnitude = magnitude > kMost ? Lane<Real>{} + kMost : magnitude;
  logit = logit < Real(0) ? -magnitude : magnitude;
  const Lane<Real> decay = exponential(-magnitude);
  const Lane<Real> likely = Real(1) / (decay + Real(1)), unlikely = decay * likely;
  const Lane<Real> change = unlikely * likely * rest;  // of the probability that the bit is set
  return {logit, (logit < Real(0) ? unlikely : likely) + change, (logit < Real(0) ? likely : unlikely) - change,
          logarithm_of_one_plus(decay) + magnitude * unlikely - logit * change};
}

// The probabilities of all codes of `bits` bits; set and unset are those of the first, most significant one in one row.
template <class Real>
void products(const Columns<Real>& set, const Columns<Real>& unset, int first, int bits, int row, Real* table) {
  table[0] = 1;
  for (int bit = bits - 1, size = 1; bit >= 0; --bit, size *= 2) {
    const Real one = set.value[first + bit][row], zero = unset.value[first + bit][row];
    for (int k = 0; k < size; ++k) {
      table[size + k] = table[k] * one;
      table[k] *= zero;
    }
  }
}

template <class Real>
struct AccumulatorOf {
  typedef Real Type __attribute__((vector_size(kVectorBytes)));
};

// Adds the outer products of some rows' probabilities of high and low halves to a group's table of codes.
template <class Real>
void add_products(const Group& group, int rows, const Real (*high)[kTableSize], const Real (*low)[kTableSize],
                  double* sums) {
  using Vector = typename AccumulatorOf<Real>::Type;
  constexpr int kWidth = kVectorBytes / sizeof(Real), kHeight = 8;
  const int high_codes = 1 << group.high, low_codes = 1 << group.low;
  for (int i = 0; i < high_codes; i += kHeight) {
    for (int k = 0; k < low_codes; k += kWidth) {
      Vector sum[kHeight] = {};
      for (int t = 0; t < rows; ++t) {
        Vector factor;
        memcpy(&factor, low[t] + k, sizeof(factor));
        for (int r = 0; r < kHeight; ++r) sum[r] += factor * high[t][i + r];
      }
      for (int r = 0; r < kHeight && i + r < high_codes; ++r) {
        double* entry = sums + (static_cast<int64_t>(i + r) << group.low) + k;
        const int count = low_codes - k < kWidth ? low_codes - k : kWidth;
        for (int lane = 0; lane < count; ++lane) entry[lane] += sum[r][lane];
      }
    }
  }
}

template <class Real>
void add_probabilities(const BinaryRows& p, int count, const Columns<Real>& set, const Columns<Real>& unset,
                       double* sums) {
  constexpr int kBlock = 16;  // rows; what is behind a table's end is read, but not used
  alignas(64) static thread_local Real high[kBlock][kTableSize], low[kBlock][kTableSize];
  for (int index = 0; index < p.groups; ++index) {
    const Group group = group_at(p, index);
    for (int begin = 0; begin < count; begin += kBlock) {
      const int rows = count - begin < kBlock ? count - begin : kBlock;
      for (int t = 0; t < rows; ++t) {
        products(set, unset, group.first, group.high, begin + t, high[t]);
        products(set, unset, group.first + group.high, group.low, begin + t, low[t]);
      }
      add_products(group, rows, high, low, sums + (static_cast<int64_t>(index) << p.group_bits));
    }
  }
}

template <class Real>
void quantize_unit(const BinaryParameters& p, int64_t unit) {
  Columns<Real> columns, set, unset;
  double factor[kRows];
  const Real corner = static_cast<Real>(p.corner);
  for_each_tile(p, unit, unit + 1, [&](int64_t first, int count) {
    load_columns(p, p.x, first, count, columns);
    find_factors(p, columns, factor);
    if (p.surprisal) find_logits(p, columns, factor, set, unset);  // in the probabilities' place
    to_sphere(p, factor, columns);
    alignas(64) Real entropy[kRows] = {}, lost[kRows] = {}, has_nan[kRows] = {};
    int64_t codes[kRows] = {};
    for (int j = 0; j < p.columns; ++j) {
      Real* column = columns.value[j];
      for (int t = 0; t < kRows; ++t) codes[t] = codes[t] * 2 + (column[t] > 0);
      for (int t = 0; t < kRows; t += kLaneRows<Real>) {
        const Lane<Real> u = load(column + t);
        if (p.surprisal) {
          const Bit<Real> bit = bit_of<Real>(load(set.value[j] + t), load(unset.value[j] + t));
          store(set.value[j] + t, bit.set);
          store(unset.value[j] + t, bit.unset);
          Lane<Real> sum = load(entropy + t), rest = load(lost + t);
          add_compensated(bit.entropy, sum, rest);
          store(entropy + t, sum);
          store(lost + t, rest);
        }
        store(has_nan + t, u == u ? load(has_nan + t) : Lane<Real>{} + Real(1));
        store(column + t, u > Real(0) ? Lane<Real>{} + corner : Lane<Real>{} - corner);
      }
    }
    write_codes(p, first, count, codes, has_nan, columns);
    store_columns(p, p.quantized, first, count, columns);
    if (!p.surprisal) return;
    for (int t = 0; t < count; ++t) static_cast<Real*>(p.sample_entropy)[first + t] = entropy[t];
    add_probabilities(p, count, set, unset, p.probability_sums + unit * p.entries());
  });
}

template <class Real>
void quantize(const BinaryParameters& p, int64_t first_unit, int64_t last_unit) {
  for (int64_t unit = first_unit; unit < last_unit; ++unit) quantize_unit<Real>(p, unit);
}

// out[o] = Σ_m table[o·out_step + m·in_step]·in[m], `width` results at a time; both counts are powers of two.
template <int width, class Real>
void contract(const Real* table, int64_t out_step, int64_t in_step, int out_count, int in_count, const Lane<Real>* in,
              Lane<Real>* out) {
  for (int o = 0; o < out_count; o += width) {
    Lane<Real> sum[width] = {};
    for (int m = 0; m < in_count; ++m) {
      for (int r = 0; r < width; ++r) sum[r] += in[m] * table[(o + r) * out_step + m * in_step];
    }
    for (int r = 0; r < width; ++r) out[o + r] = sum[r];
  }
}

// What the mean over codes of a half changes by when one of its bits is set rather than not, for each bit. `mean` has
// the codes' values and `probability` their probabilities; both are folded bit by bit, the least significant first.
template <class Real>
void differences(Lane<Real>* mean, Lane<Real>* probability, const Lane<Real>* set, int bits, Lane<Real>* out) {
  for (int bit = bits - 1; bit >= 0; --bit) {
    Lane<Real> sum{};
    for (int m = 0; m < 1 << bit; ++m) {
      const Lane<Real> difference = mean[2 * m + 1] - mean[2 * m];
      probability[m] = probability[2 * m] + probability[2 * m + 1];
      mean[m] = mean[2 * m] + set[bit] * difference;
      sum += probability[m] * difference;
    }
    out[bit] = sum;
  }
}

// The codes' probabilities in several rows, as `products` in one.
template <class Real>
void lane_products(const Lane<Real>* set, const Lane<Real>* unset, int bits, Lane<Real>* table) {
  table[0] = Lane<Real>{} + Real(1);
  for (int bit = bits - 1, size = 1; bit >= 0; --bit, size *= 2) {
    for (int k = 0; k < size; ++k) {
      table[size + k] = table[k] * set[bit];
      table[k] *= unset[bit];
    }
  }
}

// For each bit of a group: the change of the rows' mean surprisal when the bit is set rather than not.
template <class Real>
void surprisal_differences(const Group& group, const Real* surprisal, const Lane<Real>* set, const Lane<Real>* unset,
                           Lane<Real>* out) {
  static thread_local Lane<Real> high[kTableSize], low[kTableSize], of_high[kTableSize], of_low[kTableSize];
  const int high_codes = 1 << group.high, low_codes = 1 << group.low;
  lane_products<Real>(set, unset, group.high, high);
  lane_products<Real>(set + group.high, unset + group.high, group.low, low);
  (high_codes >= 8 ? contract<8, Real> : contract<1, Real>)(surprisal, low_codes, 1, high_codes, low_codes, low,
                                                            of_high);
  (low_codes >= 8 ? contract<8, Real> : contract<1, Real>)(surprisal, 1, low_codes, low_codes, high_codes, high,
                                                           of_low);
  differences<Real>(of_high, high, set, group.high, out);
  differences<Real>(of_low, low, set + group.high, group.low, out + group.high);
}

// The gradient of u in the logits' place, from the entropies alone; kLaneRows rows from t on.
template <class Real>
void entropy_gradient(const BinaryBackwardParameters& p, const Real* sample_gradient, Real batch_gradient, int t,
                      Columns<Real>& logits, const Columns<Real>& rest) {
  Bit<Real> bits[kMaxColumns];
  Lane<Real> set[kMaxColumns], unset[kMaxColumns], change[kMaxColumns] = {};
  for (int j = 0; j < p.columns; ++j) {
    bits[j] = bit_of<Real>(load(logits.value[j] + t), load(rest.value[j] + t));
    set[j] = bits[j].set;
    unset[j] = bits[j].unset;
  }
  for (int index = 0; p.grad_batch_entropy && index < p.groups; ++index) {
    const Group group = group_at(p, index);
    const Real* surprisal = static_cast<const Real*>(p.surprisal) + (static_cast<int64_t>(index) << p.group_bits);
    surprisal_differences<Real>(group, surprisal, set + group.first, unset + group.first, change + group.first);
  }
  const Lane<Real> of_sample = load(sample_gradient + t);
  for (int j = 0; j < p.columns; ++j) {
    const Lane<Real> of_logit = batch_gradient * change[j] - of_sample * bits[j].logit;
    store(logits.value[j] + t, of_logit * (set[j] * unset[j]) * static_cast<Real>(p.logit_of_u));
  }
}

// From gradients of u to those of x: what points away from the sphere is lost.
template <class Real>
void from_sphere(const BinaryRows& p, const Columns<Real>& x, const double* factor, Columns<Real>& gradients) {
  if (p.radius == 0) return;
  double along[kRows] = {};
  for (int j = 0; j < p.columns; ++j) {
    for (int t = 0; t < kRows; ++t) along[t] += static_cast<double>(gradients.value[j][t]) * x.value[j][t];
  }
  for (int t = 0; t < kRows; ++t) {  // where the norm is below its bound, it is no function of x
    const double unit = factor[t] / p.radius;
    along[t] = unit < 1e12 ? along[t] * unit * unit : 0;
  }
  for (int j = 0; j < p.columns; ++j) {
    for (int t = 0; t < kRows; ++t) {
      gradients.value[j][t] = static_cast<Real>((gradients.value[j][t] - along[t] * x.value[j][t]) * factor[t]);
    }
  }
}

template <class Real>
void backward(const BinaryBackwardParameters& p, int64_t first_unit, int64_t last_unit) {
  Columns<Real> x, gradients, incoming, rest;
  double factor[kRows];
  const bool from_entropies = p.grad_sample_entropy || p.grad_batch_entropy;
  const Real batch_gradient =
      p.grad_batch_entropy ? static_cast<const Real*>(p.grad_batch_entropy)[0] / static_cast<Real>(p.rows) : Real(0);
  for_each_tile(p, first_unit, last_unit, [&](int64_t first, int count) {
    load_columns(p, p.x, first, count, x);
    find_factors(p, x, factor);
    gradients = x;
    to_sphere(p, factor, gradients);
    alignas(64) Real sample_gradient[kRows] = {};
    for (int t = 0; p.grad_sample_entropy && t < count; ++t) {
      sample_gradient[t] = static_cast<const Real*>(p.grad_sample_entropy)[first + t];
    }
    if (p.grad_quantized.data) load_columns(p, p.grad_quantized, first, count, incoming);
    for (int j = 0; p.grad_quantized.data && j < p.columns; ++j) {  // straight through, but for what is not finite
      for (int t = 0; t < kRows; ++t) {
        incoming.value[j][t] = __builtin_isfinite(gradients.value[j][t]) ? incoming.value[j][t] : Real(0);
      }
    }
    if (from_entropies) find_logits(p, x, factor, gradients, rest);
    for (int t = 0; from_entropies && t < count; t += kLaneRows<Real>) {
      entropy_gradient(p, sample_gradient, batch_gradient, t, gradients, rest);
    }
    for (int j = 0; j < p.columns; ++j) {
      for (int t = 0; t < kRows; ++t) {
        const Real of_entropies = from_entropies ? gradients.value[j][t] : Real(0);
        gradients.value[j][t] = p.grad_quantized.data ? of_entropies + incoming.value[j][t] : of_entropies;
      }
    }
    from_sphere(p, x, factor, gradients);
    store_columns(p, p.grad_x, first, count, gradients);
  });
}

}  // namespace

const Loops<BinaryParameters, BinaryBackwardParameters, BinaryDecodeParameters> binary_quantize_kernels = {
    {quantize<float>, quantize<double>}, {backward<float>, backward<double>}, {decode_rows, decode_rows}};

}  // namespace visgen::VISGEN_ISA
