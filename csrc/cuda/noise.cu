// The family `noise` on a GPU.
//
// Per element: 1 store of the output's size, nothing read but the sample's seed. Arithmetic: a Philox block (10 rounds
// of 2 wide multiplications and 4 exclusive ors) for every 4 elements, a Box–Muller pair for every 2.
#include "../ops/noise_call.h"

#include "../common/registration.h"
#include "tile.cuh"

namespace visgen {
namespace {

template <int span>
__device__ __forceinline__ void uniform_tile(uint64_t seed, uint64_t stream, int64_t begin, float smallest,
                                             float (&out)[span]) {
  VISGEN_UNROLL
  for (int i = 0; i < span; i += 4) {
    const auto block = cuda::philox_block(seed, stream, static_cast<uint64_t>(begin + i) / 4);
    VISGEN_UNROLL
    for (int j = 0; j < 4; ++j) {
      const float value = cuda::uniform_float(static_cast<uint32_t>(block.word[j]));
      out[i + j] = value < smallest ? smallest : value;
    }
  }
}

template <int span>
__device__ __forceinline__ void uniform_tile(uint64_t seed, uint64_t stream, int64_t begin, float,
                                             double (&out)[span]) {
  const auto block = cuda::philox_block(seed, stream, static_cast<uint64_t>(begin) / 4);
  VISGEN_UNROLL
  for (int j = 0; j < span; ++j) out[j] = cuda::uniform_double(static_cast<uint32_t>(block.word[j]));
}

template <class Real, Distribution distribution, int span, bool wide>
__global__ void __launch_bounds__(kBlockThreads) fill(NoiseParameters p) {
  const int64_t begin = first_of_tile<span>();
  if (begin >= p.shape.elements) return;
  for (int64_t sample = first_sample(); sample < p.shape.samples; sample += sample_step()) {
    const uint64_t seed = static_cast<uint64_t>(p.seeds[sample]);
    Real value[span];
    if constexpr (distribution == Distribution::gaussian) {
      normal_tile(seed, p.stream, begin, value);
    } else {
      uniform_tile(seed, p.stream, begin, p.smallest, value);
    }
    store_tile<wide>(p.out, p.shape, sample, begin, value);
  }
}

template <class Real, Distribution distribution, int span, bool wide>
void launch_fill(const NoiseParameters& p, Stream stream) {
  launch<fill<Real, distribution, span, wide>>(tile_grid(p.shape, span), stream, p);
}

template <Distribution distribution>
void fill_tensor(const Tensor& out, const Tensor& seeds, int64_t random_stream) {
  constexpr int64_t kWholeSample = INT64_MAX;
  const NoiseParameters p = noise_parameters(out, seeds, random_stream, kWholeSample);
  if (p.shape.samples * p.shape.elements == 0) return;
  const OnDevice guard(out.get_device_index());
  const Stream stream = current_stream(out.get_device_index());
  if (p.out.dtype == DType::float64) return launch_fill<double, distribution, 4, false>(p, stream);
  if (size_of(p.out.dtype) == 2 && is_wide(p.out, p.shape, 8))
    return launch_fill<float, distribution, 8, true>(p, stream);
  if (is_wide(p.out, p.shape, 4)) return launch_fill<float, distribution, 4, true>(p, stream);
  launch_fill<float, distribution, 4, false>(p, stream);
}

void gaussian_(Tensor out, const Tensor& seeds, int64_t stream) {
  fill_tensor<Distribution::gaussian>(out, seeds, stream);
}

void uniform_(Tensor out, const Tensor& seeds, int64_t stream) {
  fill_tensor<Distribution::uniform>(out, seeds, stream);
}

__global__ void __launch_bounds__(kBlockThreads)
    hash(const int64_t* seed, int64_t seed_stride, const int64_t* index, int64_t index_stride, uint64_t stream,
         int64_t count, int64_t* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (i >= count) return;
  const auto block = cuda::philox_block(seed[i * seed_stride], stream, index[i * index_stride]);
  out[i] = static_cast<int64_t>((block.word[0] & 0xFFFFFFFFu) | block.word[1] << 32);
}

Tensor derive_seeds(const Tensor& seed, const Tensor& index, int64_t stream) {
  const OnDevice guard(index.get_device_index());
  Tensor out = derived_seeds_output(seed, index);
  const int64_t count = index.size(0), blocks = (count + kBlockThreads - 1) / kBlockThreads;
  launch<hash>({dim3(static_cast<unsigned>(blocks)), dim3(kBlockThreads)}, current_stream(index.get_device_index()),
               seed.const_data_ptr<int64_t>(), seed.size(0) == 1 ? 0 : seed.stride(0), index.const_data_ptr<int64_t>(),
               index.stride(0), stream, count, out.mutable_data_ptr<int64_t>());
  return out;
}

}  // namespace

VISGEN_REGISTER(CUDA, m) {
  m.impl("derive_seeds", TORCH_BOX(&derive_seeds));
  m.impl("gaussian_", TORCH_BOX(&gaussian_));
  m.impl("uniform_", TORCH_BOX(&uniform_));
}

}  // namespace visgen
