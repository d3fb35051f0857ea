// A call of the family `noise`: the checks that both devices share.
#pragma once

#include "noise.h"
#include "tensors.h"

namespace visgen {

inline NoiseParameters noise_parameters(const Tensor& out, const Tensor& seeds, int64_t stream, int64_t unit) {
  check_seeds(seeds, out);
  STD_TORCH_CHECK(out.scalar_type() != ScalarType::Byte, "out must have a floating-point type");
  Operand operand;
  Batch batch(out);
  batch.add(out, operand, "out");
  const SampleShape shape = batch.merge();
  return {shape,
          Partition(shape.samples, shape.elements, shape.elements, unit),
          seeds.const_data_ptr<int64_t>(),
          static_cast<uint64_t>(stream),
          operand,
          operand.dtype == DType::float16 ? 0x1p-24f : 0x1p-32f};
}

// Seeds are [1] or [B] like the index: checked here, derived on the device.
inline Tensor derived_seeds_output(const Tensor& seed, const Tensor& index) {
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && index.scalar_type() == ScalarType::Long &&
                      seed.dim() == 1 && index.dim() == 1,
                  "seed and index must be int64 tensors of one dimension");
  STD_TORCH_CHECK(seed.size(0) == 1 || seed.size(0) == index.size(0), "seed must be one number, or one for each index");
  STD_TORCH_CHECK(seed.device() == index.device(), "seed must be on the device of index");
  return empty_on(index, {index.size(0)}, ScalarType::Long);
}

}  // namespace visgen
