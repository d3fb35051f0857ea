// Calls of the family `binary_quantize`: see code_rows_call.h.
// A Device supplies the loops over units: `quantize`, `backward` and `decode(parameters, device index)`.
#pragma once

#include <cmath>

#include "binary_quantize.h"
#include "code_rows_call.h"

namespace visgen {

inline BinaryParameters binary_parameters(const Tensor& x, double scale, double inverse_temperature, int64_t group_size,
                                          bool spherical) {
  constexpr int kMostGroupBits = 20;
  STD_TORCH_CHECK(group_size >= 1 && group_size <= kMostGroupBits, "group_size must lie in [1, ", kMostGroupBits, "]");
  STD_TORCH_CHECK(x.dim() >= 1 && x.size(-1) >= 1 && x.size(-1) <= kMaxColumns, "x must have 1 to ", kMaxColumns,
                  " columns");
  const int64_t columns = x.size(-1);
  BinaryParameters p;
  p.corner = spherical ? scale / std::sqrt(static_cast<double>(columns)) : scale;
  p.radius = spherical ? scale : 0;
  p.logit_of_u = 4 * inverse_temperature * p.corner;
  p.group_bits = static_cast<int>(group_size < columns ? group_size : columns);
  p.groups = static_cast<int>((columns + p.group_bits - 1) / p.group_bits);
  return p;
}

// Rows that one unit adds up into a table of its own: enough units for any machine, few enough that their tables take
// 16 MiB at most, or there is but one.
inline int64_t rows_in_table_unit(const BinaryParameters& p, int64_t rows) {
  constexpr int64_t kMostEntries = 1 << 21, kMostUnits = 256, kFewestRows = 256;
  int64_t units = kMostEntries / p.entries();
  units = units < 1 ? 1 : units > kMostUnits ? kMostUnits : units;
  const int64_t in_unit = (rows + units - 1) / units;
  return in_unit < kFewestRows ? kFewestRows : in_unit;
}

inline void* data_of(const OptionalTensor& tensor, const Tensor& x, int64_t count, const char* name) {
  if (!tensor) return nullptr;
  STD_TORCH_CHECK(tensor->scalar_type() == real_of(x) && tensor->is_contiguous() && tensor->numel() == count &&
                      tensor->device() == x.device(),
                  name, " must be contiguous with ", count, " numbers of the arithmetic's type on the device of x");
  return tensor->data_ptr();
}

template <class Device>
struct BinaryQuantizeOperations {
  // (quantized, codes, per_sample_entropy, batch_entropy, surprisal); the last three without elements if not asked for
  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> binary_quantize(const Tensor& x, double scale,
                                                                            double inverse_temperature,
                                                                            int64_t group_size, bool spherical,
                                                                            bool entropy) {
    BinaryParameters p = binary_parameters(x, scale, inverse_temperature, group_size, spherical);
    Tensor quantized = empty_like(x, x.scalar_type()), codes = codes_of(x, p);
    const int64_t rows = codes.numel();
    const ScalarType type = real_of(x);
    Tensor sample = empty_on(x, entropy ? sizes_of(codes) : std::vector<int64_t>{0}, type);
    Tensor batch = torch::stable::new_zeros(x, entropy ? std::vector<int64_t>{} : std::vector<int64_t>{0}, type);
    Tensor surprisal = empty_on(x, {entropy ? p.groups : 0, int64_t{1} << p.group_bits}, type);
    set_rows(p, x, quantized, std::nullopt, entropy ? rows_in_table_unit(p, rows) : kRowsInUnit);
    OptionalTensor sums, terms;
    if (entropy) {
      p.with_entropy = true;
      p.sample_entropy = sample.data_ptr();
      p.batch_entropy = batch.data_ptr();
      p.surprisal = surprisal.data_ptr();
      sums = torch::stable::new_zeros(x, {p.partition.units(), p.entries()}, ScalarType::Double);
      terms = empty_on(x, {(p.entries() + kChunk - 1) / kChunk}, ScalarType::Double);
      p.probability_sums = sums->mutable_data_ptr<double>();
      p.entropy_sums = terms->mutable_data_ptr<double>();
    }
    if (p.partition.units() > 0) Device::quantize(p, x.get_device_index());
    return {quantized, codes, sample, batch, surprisal};
  }

  static Tensor binary_quantize_backward(const OptionalTensor& grad_quantized, const OptionalTensor& grad_sample,
                                         const OptionalTensor& grad_batch, const Tensor& x, const Tensor& surprisal,
                                         double scale, double inverse_temperature, int64_t group_size, bool spherical) {
    BinaryParameters p = binary_parameters(x, scale, inverse_temperature, group_size, spherical);
    Tensor grad_x = empty_like(x, x.scalar_type());
    set_rows(p, x, grad_quantized, grad_x, kRowsInUnit);
    p.sample_entropy = data_of(grad_sample, x, p.rows, "the gradient of per_sample_entropy");
    p.batch_entropy = data_of(grad_batch, x, 1, "the gradient of batch_entropy");
    if (grad_batch) p.surprisal = data_of(surprisal, x, p.entries(), "surprisal");
    OptionalTensor grad_logits;
    if (grad_batch && Device::kNeedsGradLogits) {
      grad_logits = empty_on(x, {p.rows, p.columns}, real_of(x));
      p.grad_logits = grad_logits->data_ptr();
    }
    if (p.partition.units() > 0) Device::backward(p, x.get_device_index());
    return grad_x;
  }

  static Tensor binary_decode(const Tensor& codes, int64_t bits, double scale, ScalarType dtype) {
    BinaryParameters p;
    p.corner = scale;
    Tensor result = set_decoded(p, codes, bits, dtype, kRowsInUnit);
    if (p.partition.units() > 0) Device::decode(p, codes.get_device_index());
    return result;
  }

  static void add_to(Library& m) {
    m.impl("binary_quantize", TORCH_BOX(&binary_quantize));
    m.impl("binary_quantize_backward", TORCH_BOX(&binary_quantize_backward));
    m.impl("binary_decode", TORCH_BOX(&binary_decode));
  }
};

}  // namespace visgen
