// A call of the family `noise`: the checks that both devices share, and the functions that the dispatcher calls. A
// Device supplies kUnit, the elements of a unit of work, and `fill` and `derive_seeds`, the loops.
#pragma once

#include "../common/registration.h"
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

template <class Device>
struct NoiseOperations {
  static void gaussian_(Tensor out, const Tensor& seeds, int64_t stream) {
    fill(out, seeds, stream, Distribution::gaussian);
  }

  static void uniform_(Tensor out, const Tensor& seeds, int64_t stream) {
    fill(out, seeds, stream, Distribution::uniform);
  }

  static void fill(const Tensor& out, const Tensor& seeds, int64_t stream, Distribution distribution) {
    const NoiseParameters p = noise_parameters(out, seeds, stream, Device::kUnit);
    if (p.partition.units() > 0) Device::fill(p, distribution, out.get_device_index());
  }

  // `seed` is one number, or one for each index.
  static Tensor derive_seeds(const Tensor& seed, const Tensor& index, int64_t stream) {
    STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && index.scalar_type() == ScalarType::Long &&
                        seed.dim() == 1 && index.dim() == 1,
                    "seed and index must be int64 tensors of one dimension");
    STD_TORCH_CHECK(seed.size(0) == 1 || seed.size(0) == index.size(0),
                    "seed must be one number, or one for each index");
    STD_TORCH_CHECK(seed.device() == index.device(), "seed must be on the device of index");
    Tensor out = empty_on(index, {index.size(0)}, ScalarType::Long);
    const SeedParameters p{seed.const_data_ptr<int64_t>(),  seed.size(0) == 1 ? 0 : seed.stride(0),
                           index.const_data_ptr<int64_t>(), index.stride(0),
                           static_cast<uint64_t>(stream),   index.size(0),
                           out.mutable_data_ptr<int64_t>()};
    Device::derive_seeds(p, index.get_device_index());
    return out;
  }

  static void add_to(Library& m) {
    m.impl("derive_seeds", TORCH_BOX(&derive_seeds));
    m.impl("gaussian_", TORCH_BOX(&gaussian_));
    m.impl("uniform_", TORCH_BOX(&uniform_));
  }
};

}  // namespace visgen
