// The family `noise` on the CPU.
#include "../ops/noise_call.h"

#include "../common/philox.h"
#include "../common/registration.h"
#include "kernels.h"
#include "parallel.h"

namespace visgen {
namespace {

Tensor derive_seeds(const Tensor& seed, const Tensor& index, int64_t stream) {
  Tensor out = derived_seeds_output(seed, index);
  const int64_t *seeds = seed.const_data_ptr<int64_t>(), *indices = index.const_data_ptr<int64_t>();
  const int64_t seed_stride = seed.size(0) == 1 ? 0 : seed.stride(0), index_stride = index.stride(0);
  int64_t* result = out.mutable_data_ptr<int64_t>();
  torch::stable::parallel_for(0, index.size(0), kUnit, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto block = generic::philox_block(seeds[i * seed_stride], stream, indices[i * index_stride]);
      result[i] = static_cast<int64_t>((block.word[0] & 0xFFFFFFFFu) | block.word[1] << 32);
    }
  });
  return out;
}

void fill(const Tensor& out, const Tensor& seeds, int64_t stream, NoiseKernels::Kernel in_float,
          NoiseKernels::Kernel in_double) {
  const NoiseParameters p = noise_parameters(out, seeds, stream, kUnit);
  for_units(p.partition,
            [&](int64_t begin, int64_t end) { (p.out.dtype == DType::float64 ? in_double : in_float)(p, begin, end); });
}

void gaussian_(Tensor out, const Tensor& seeds, int64_t stream) {
  fill(out, seeds, stream, kernels().noise.gaussian_float, kernels().noise.gaussian_double);
}

void uniform_(Tensor out, const Tensor& seeds, int64_t stream) {
  fill(out, seeds, stream, kernels().noise.uniform_float, kernels().noise.uniform_double);
}

}  // namespace

VISGEN_REGISTER(CPU, m) {
  m.impl("derive_seeds", TORCH_BOX(&derive_seeds));
  m.impl("gaussian_", TORCH_BOX(&gaussian_));
  m.impl("uniform_", TORCH_BOX(&uniform_));
}

}  // namespace visgen
