// Calls of the family `noise`.
#pragma once

#include "../common/registration.h"
#include "noise.h"
#include "tensors.h"

namespace visgen {

template <class Device>
struct NoiseOperations {
  static void gaussian_(Tensor out, const Tensor& seeds, int64_t stream) {
    fill(Distribution::gaussian, out, seeds, stream);
  }

  static void uniform_(Tensor out, const Tensor& seeds, int64_t stream) {
    fill(Distribution::uniform, out, seeds, stream);
  }

  static void gumbel_(Tensor out, const Tensor& seeds, int64_t stream) {
    fill(Distribution::gumbel, out, seeds, stream);
  }

  // `seed` is one number, or one for each index.
  static Tensor derive_seeds(const Tensor& seed, const Tensor& index, int64_t stream) {
    check(seed.scalar_type() == ScalarType::Long && index.scalar_type() == ScalarType::Long && seed.dim() == 1 &&
              index.dim() == 1,
          "seed and index must be int64 tensors of one dimension");
    check(seed.size(0) == 1 || seed.size(0) == index.size(0), "seed must be one number, or one for each index");
    check(seed.device() == index.device(), "seed must be on the device of index");
    Tensor out = empty_on(index, {index.size(0)}, ScalarType::Long);
    const SeedParameters p{seed.const_data_ptr<int64_t>(),  seed.size(0) == 1 ? 0 : seed.stride(0),
                           index.const_data_ptr<int64_t>(), index.stride(0),
                           static_cast<uint64_t>(stream),   index.size(0),
                           out.mutable_data_ptr<int64_t>()};
    if (p.count > 0) Device::run(p, index);
    return out;
  }

  VISGEN_OPERATIONS(derive_seeds, gaussian_, uniform_, gumbel_)

 private:
  static void fill(Distribution distribution, const Tensor& out, const Tensor& seeds, int64_t stream) {
    NoiseParameters p;
    p.distribution = distribution;
    p.seeds = seeds_of(seeds, out);
    p.stream = static_cast<uint64_t>(stream);
    p.smallest = floating_dtype_of(out.scalar_type(), "out") == DType::float16 ? 0x1p-24f : 0x1p-32f;
    run_samples<Device>(p, out, {{out, p.out, "out"}});
  }
};

}  // namespace visgen
