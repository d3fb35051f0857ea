// A call of the family `scalar_quantize`: what both devices share, which is checks, allocation, layouts and the
// functions that the dispatcher calls. A Device supplies the loops over units: for FiniteScalarParameters and
// BinaryParameters `quantize`, `backward` and `decode(parameters, device index)`.
#pragma once

#include <cmath>

#include "../common/registration.h"
#include "scalar_quantize.h"
#include "tensors.h"

namespace visgen {

inline std::vector<int64_t> sizes_of(const Tensor& tensor) {
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < tensor.dim(); ++d) sizes.push_back(tensor.size(d));
  return sizes;
}

// The rows of x, and what else has its shape: `other` and `grad_x`, both optional.
inline void set_rows(CodeRows& p, const Tensor& x, const OptionalTensor& other, const OptionalTensor& grad_x,
                     int64_t rows_in_unit) {
  Batch batch(x, Batch::kOneSample);
  batch.add(x, p.x, "x");
  batch.add(other, p.quantized, "quantized");
  batch.add(grad_x, p.grad_x, "grad_x");
  STD_TORCH_CHECK(x.size(-1) >= 1 && x.size(-1) <= kMaxColumns, "x must have 1 to ", kMaxColumns, " columns");
  STD_TORCH_CHECK(p.x.dtype != DType::uint8, "x must have a floating-point type");
  p.in_double = p.x.dtype == DType::float64;
  p.columns = static_cast<int>(x.size(-1));
  p.rows = x.numel() / p.columns;
  p.shape = batch.merge();
  p.partition = Partition(1, x.numel(), x.numel(), rows_in_unit * p.columns);
}

// The vectors that codes stand for.
inline Tensor set_decoded(CodeRows& p, const Tensor& codes, int64_t columns, ScalarType dtype, int64_t rows_in_unit) {
  STD_TORCH_CHECK(codes.scalar_type() == ScalarType::Long && codes.is_contiguous(),
                  "codes must be a contiguous int64 tensor");
  STD_TORCH_CHECK(columns >= 1 && columns <= kMaxColumns, "codes must stand for 1 to ", kMaxColumns, " columns");
  std::vector<int64_t> sizes = sizes_of(codes);
  sizes.push_back(columns);
  Tensor result = empty_on(codes, sizes, dtype);
  set_rows(p, result, result, std::nullopt, rows_in_unit);
  p.codes = const_cast<int64_t*>(codes.const_data_ptr<int64_t>());
  return result;
}

inline Tensor codes_of(const Tensor& x, CodeRows& p) {
  std::vector<int64_t> sizes = sizes_of(x);
  sizes.pop_back();
  Tensor codes = empty_on(x, sizes, ScalarType::Long);
  p.codes = codes.mutable_data_ptr<int64_t>();
  return codes;
}

enum class Bound : int64_t { atanh, tan, symmetric };

inline FiniteScalarParameters finite_scalar_parameters(const std::vector<int64_t>& levels, int64_t bound) {
  constexpr double kEpsilon = 1e-3;
  constexpr int64_t kMostLevels = 1000;  // beyond, the bound by atanh would reach a level that is none
  constexpr int64_t kMostCodes = (int64_t{1} << 62) - 1;
  STD_TORCH_CHECK(levels.size() >= 1 && levels.size() <= kMaxColumns, "levels must have 1 to ", kMaxColumns,
                  " numbers");
  STD_TORCH_CHECK(bound >= 0 && bound <= static_cast<int64_t>(Bound::symmetric), "bound must be 0, 1 or 2");
  FiniteScalarParameters p;
  const Bound kind = static_cast<Bound>(bound);
  p.round_half_up = kind == Bound::symmetric;
  int64_t codes = 1;
  for (size_t i = 0; i < levels.size(); ++i) {
    const int64_t count = levels[i];
    STD_TORCH_CHECK(count >= 2 && count <= kMostLevels, "levels must lie in [2, ", kMostLevels, "]");
    STD_TORCH_CHECK(codes <= kMostCodes / count, "levels must have a product below 2^62");
    codes *= count;
    LevelColumn<double>& column = p.column[i];
    column.levels = static_cast<int32_t>(count);
    if (kind == Bound::symmetric) {
      column.shift = 0;
      column.half = (count - 1) / 2.0;
      column.offset = -column.half;
      column.lowest = 0;
      column.step = 2;
      column.origin = static_cast<double>(count - 1);
      continue;
    }
    column.half = (count - 1) * (kind == Bound::atanh ? 1 + kEpsilon : 1 - kEpsilon) / 2;
    column.offset = count % 2 ? 0.0 : 0.5;
    const double zero = column.offset / column.half;
    column.shift = kind == Bound::atanh ? std::atanh(zero) : std::tan(zero);
    column.lowest = -static_cast<double>(count / 2);
    column.step = 1;
    column.origin = static_cast<double>(count / 2);
  }
  return p;
}

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
struct ScalarQuantizeOperations {
  static constexpr int64_t kRowsInUnit = 2048;

  static std::tuple<Tensor, Tensor> finite_scalar_quantize(const Tensor& x, std::vector<int64_t> levels,
                                                           int64_t bound) {
    FiniteScalarParameters p = parameters_for(x, levels, bound);
    Tensor quantized = empty_like(x, x.scalar_type()), codes = codes_of(x, p);
    set_rows(p, x, quantized, std::nullopt, kRowsInUnit);
    if (p.partition.units() > 0) Device::quantize(p, x.get_device_index());
    return {quantized, codes};
  }

  static Tensor finite_scalar_quantize_backward(const Tensor& grad_quantized, const Tensor& x,
                                                std::vector<int64_t> levels, int64_t bound) {
    FiniteScalarParameters p = parameters_for(x, levels, bound);
    Tensor grad_x = empty_like(x, x.scalar_type());
    set_rows(p, x, grad_quantized, grad_x, kRowsInUnit);
    if (p.partition.units() > 0) Device::backward(p, x.get_device_index());
    return grad_x;
  }

  static Tensor finite_scalar_decode(const Tensor& codes, std::vector<int64_t> levels, int64_t bound,
                                     ScalarType dtype) {
    FiniteScalarParameters p = finite_scalar_parameters(levels, bound);
    Tensor result = set_decoded(p, codes, static_cast<int64_t>(levels.size()), dtype, kRowsInUnit);
    if (p.partition.units() > 0) Device::decode(p, codes.get_device_index());
    return result;
  }

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
    m.impl("finite_scalar_quantize", TORCH_BOX(&finite_scalar_quantize));
    m.impl("finite_scalar_quantize_backward", TORCH_BOX(&finite_scalar_quantize_backward));
    m.impl("finite_scalar_decode", TORCH_BOX(&finite_scalar_decode));
    m.impl("binary_quantize", TORCH_BOX(&binary_quantize));
    m.impl("binary_quantize_backward", TORCH_BOX(&binary_quantize_backward));
    m.impl("binary_decode", TORCH_BOX(&binary_decode));
  }

 private:
  static FiniteScalarParameters parameters_for(const Tensor& x, const std::vector<int64_t>& levels, int64_t bound) {
    STD_TORCH_CHECK(x.dim() >= 1 && x.size(-1) == static_cast<int64_t>(levels.size()),
                    "levels must have one number for each column of x");
    return finite_scalar_parameters(levels, bound);
  }
};

}  // namespace visgen
