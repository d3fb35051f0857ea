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
    Tensor quantized = empty_like(x, x.scalar_type()), codes = empty_on(x, sizes_of_rows(x), ScalarType::Long);
    Tensor sample = empty_on(x, entropy ? sizes_of_rows(x) : Sizes{0}, real);
    Tensor batch_entropy = zeros_on(x, entropy ? Sizes{} : Sizes{0}, real);
    Tensor surprisal = empty_on(x, {entropy ? p.groups : 0, int64_t{1} << p.group_bits}, real);
    p.codes = codes.mutable_data_ptr<int64_t>();
    Batch batch(x, Batch::kOneSample);
    batch.add(x, p.x, "x");
    batch.add(quantized, p.quantized, "quantized");
    set_rows(p, x, batch, entropy ? rows_in_table_unit(p, codes.numel()) : kRowsInUnit);
    OptionalTensor sums, terms;
    if (entropy) {
      sums = zeros_on(x, {p.partition.units(), p.entries()}, ScalarType::Double);
      terms = empty_on(x, {(p.entries() + kChunk - 1) / kChunk}, ScalarType::Double);
      p.sample_entropy = sample.mutable_data_ptr();
      p.batch_entropy = batch_entropy.mutable_data_ptr();
      p.surprisal = surprisal.mutable_data_ptr();
      p.probability_sums = sums->mutable_data_ptr<double>();
      p.entropy_sums = terms->mutable_data_ptr<double>();
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
    Batch batch(x, Batch::kOneSample);
    batch.add(x, p.x, "x");
    batch.add(grad_quantized, p.grad_quantized, "grad_quantized");
    batch.add(grad_x, p.grad_x, "grad_x");
    set_rows(p, x, batch);
    p.grad_sample_entropy = data_of(grad_sample, x, sizes_of_rows(x), real, "the gradient of per_sample_entropy");
    p.grad_batch_entropy = data_of(grad_batch, x, {}, real, "the gradient of batch_entropy");
    if (grad_batch) {
      p.surprisal = data_of(surprisal, x, {p.groups, int64_t{1} << p.group_bits}, real, "surprisal");
    }
    if (p.rows > 0) Device::run(p, x);
    return grad_x;
  }

  static Tensor binary_decode(const Tensor& codes, int64_t bits, double scale, ScalarType dtype) {
    BinaryDecodeParameters p;
    p.corner = scale;
    return decoded<Device>(p, codes, bits, dtype);
  }

  static void add_to(Library& m) {
    m.impl("binary_quantize", TORCH_BOX(&binary_quantize));
    m.impl("binary_quantize_backward", TORCH_BOX(&binary_quantize_backward));
    m.impl("binary_decode", TORCH_BOX(&binary_decode));
  }
};

}  // namespace visgen
