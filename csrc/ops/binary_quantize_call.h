// Calls of the family `binary_quantize`.
#pragma once

#include <cmath>

#include "binary_quantize.h"
#include "code_rows_call.h"

namespace visgen {

inline void set_bits(BinaryRows& p, const Tensor& x, double scale, double inverse_temperature, int64_t group_size,
                     bool spherical) {
  constexpr int kMostGroupBits = 20;
  check(group_size >= 1 && group_size <= kMostGroupBits, "group_size must lie in [1, ", kMostGroupBits, "]");
  check_columns(x);
  const int64_t columns = x.size(-1);
  p.corner = spherical ? scale / std::sqrt(static_cast<double>(columns)) : scale;
  p.radius = spherical ? scale : 0;
  p.logit_of_u = 4 * inverse_temperature * p.corner;
  p.group_bits = static_cast<int>(group_size < columns ? group_size : columns);
  p.groups = static_cast<int>((columns + p.group_bits - 1) / p.group_bits);
}

// Rows that one unit adds up into a table of its own: enough units for any machine, few enough that their tables take
// 16 MiB at most, or there is but one.
inline int64_t rows_in_table_unit(const BinaryRows& p, int64_t rows) {
  constexpr int64_t kMostEntries = 1 << 21, kMostUnits = 256, kFewestRows = 256;
  int64_t units = kMostEntries / p.entries();
  units = units < 1 ? 1 : units > kMostUnits ? kMostUnits : units;
  const int64_t in_unit = (rows + units - 1) / units;
  return in_unit < kFewestRows ? kFewestRows : in_unit;
}

template <class Device>
struct BinaryQuantizeOperations {
  // (quantized, codes, per_sample_entropy, batch_entropy, surprisal); the last three without elements if not asked for
  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> binary_quantize(const Tensor& x, double scale,
                                                                            double inverse_temperature,
                                                                            int64_t group_size, bool spherical,
                                                                            bool entropy) {
    BinaryParameters p;
    set_bits(p, x, scale, inverse_temperature, group_size, spherical);
    const ScalarType real = real_of(x);
    Tensor quantized = empty_like(x, x.scalar_type()),
           codes = empty_for(p.codes, x, sizes_of_rows(x), ScalarType::Long);
    Tensor sample = empty_on(x, entropy ? sizes_of_rows(x) : Sizes{0}, real);
    Tensor batch_entropy = zeros_on(x, entropy ? Sizes{} : Sizes{0}, real);
    Tensor surprisal = empty_on(x, {entropy ? p.groups : 0, int64_t{1} << p.group_bits}, real);
    set_rows(p, x, {{x, p.x, "x"}, {quantized, p.quantized, "quantized"}},
             entropy ? rows_in_table_unit(p, codes.numel()) : kRowsInUnit);
    OptionalTensor sums, terms;
    if (entropy) {
      sums = zeros_for(p.probability_sums, x, {p.partition.units(), p.entries()}, ScalarType::Double);
      terms = empty_for(p.entropy_sums, x, {(p.entries() + kChunk - 1) / kChunk}, ScalarType::Double);
      p.sample_entropy = sample.mutable_data_ptr();
      p.batch_entropy = batch_entropy.mutable_data_ptr();
      p.surprisal = surprisal.mutable_data_ptr();
    }
    if (p.rows > 0) Device::run(p, x);
    return {quantized, codes, sample, batch_entropy, surprisal};
  }

  static Tensor binary_quantize_backward(const OptionalTensor& grad_quantized, const OptionalTensor& grad_sample,
                                         const OptionalTensor& grad_batch, const Tensor& x, const Tensor& surprisal,
                                         double scale, double inverse_temperature, int64_t group_size, bool spherical) {
    BinaryBackwardParameters p;
    set_bits(p, x, scale, inverse_temperature, group_size, spherical);
    const ScalarType real = real_of(x);
    Tensor grad_x = empty_like(x, x.scalar_type());
    p.grad_sample_entropy = data_of(grad_sample, x, sizes_of_rows(x), real, "the gradient of per_sample_entropy");
    p.grad_batch_entropy = data_of(grad_batch, x, {}, real, "the gradient of batch_entropy");
    if (grad_batch) {
      p.surprisal = data_of(surprisal, x, {p.groups, int64_t{1} << p.group_bits}, real, "surprisal");
    }
    run_rows<Device>(
        p, x, {{x, p.x, "x"}, {grad_quantized, p.grad_quantized, "grad_quantized"}, {grad_x, p.grad_x, "grad_x"}});
    return grad_x;
  }

  static Tensor binary_decode(const Tensor& codes, int64_t bits, double scale, ScalarType dtype) {
    return decoded<Device, BinaryDecodeParameters>(Corners{scale}, codes, bits, dtype);
  }

  VISGEN_OPERATIONS(binary_quantize, binary_quantize_backward, binary_decode)
};

}  // namespace visgen
