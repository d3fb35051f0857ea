// The family `noise` on a GPU.
//
// Per element: 1 store of the output's size, nothing read but the sample's seed. Arithmetic: a Philox block (10 rounds
// of 2 wide multiplications and 4 exclusive ors) for every 4 elements, a Box–Muller pair for every 2: about 40 and 50
// instructions. A thread of a dense kernel takes tiles of one sample in turn and makes the keys of the rounds once. A
// Gumbel number takes six bytes of blocks and two logarithms in double.
//
// Issue slots an element in the machine code for 9.0 (benchmarks/machine_code): gaussian float32 49.5, gaussian
// bfloat16 42.38, uniform float32 30.25, uniform bfloat16 23.62.
#include "../ops/noise_call.h"

#include "../common/gumbel.h"

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
      out[i + j] = fmaxf(cuda::uniform_float(static_cast<uint32_t>(block.word[j])), smallest);
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

// Always in double: the 48 bits of a number don't fit a float. `begin` is a multiple of 4, so that the tile's leading
// halves lie in one block, or two of its words.
template <class Real, int span>
__device__ __forceinline__ void gumbel_tile(uint64_t seed, uint64_t stream, int64_t begin, Real (&out)[span]) {
  VISGEN_UNROLL
  for (int i = 0; i < span; i += 4) {
    const uint64_t first = static_cast<uint64_t>(begin + i);
    const auto leading = cuda::philox_block(seed, stream, first / 8);
    const auto rest = cuda::philox_block(seed, cuda::rest_stream(stream), first / 4);
    VISGEN_UNROLL
    for (int j = 0; j < 4; ++j) {
      const uint32_t word = static_cast<uint32_t>(first % 8 == 0 ? leading.word[j / 2] : leading.word[2 + j / 2]);
      const uint64_t high = j % 2 == 0 ? word & 0xFFFFu : word >> 16;
      out[i + j] = static_cast<Real>(cuda::gumbel<double>(high << 32 | static_cast<uint32_t>(rest.word[j])));
    }
  }
}

template <Distribution distribution, class Real, int span>
__device__ __forceinline__ void make_tile(const NoiseParameters& p, uint64_t seed, int64_t begin, Real (&value)[span]) {
  if constexpr (distribution == Distribution::gaussian) {
    normal_tile(seed, p.stream, begin, value);
  } else if constexpr (distribution == Distribution::uniform) {
    uniform_tile(seed, p.stream, begin, p.smallest, value);
  } else {
    gumbel_tile(seed, p.stream, begin, value);
  }
}

template <class Real, Distribution distribution, int span, bool wide>
__global__ void __launch_bounds__(kBlockThreads) fill(NoiseParameters p) {
  const int64_t begin = first_of_tile<span>();
  if (begin >= p.shape.elements) return;
  for (int64_t sample = first_sample(); sample < p.shape.samples; sample += sample_step()) {
    Real value[span];
    make_tile<distribution>(p, static_cast<uint64_t>(p.seeds[sample]), begin, value);
    store_tile<wide>(p.out, p.shape, sample, begin, value);
  }
}

template <class Stored, Distribution distribution, int span>
__global__ void __launch_bounds__(kBlockThreads, span == 4 ? 8 : 5) fill_dense(NoiseParameters p) {
  const uint32_t sample = blockIdx.y * blockDim.y + threadIdx.y;
  if (sample >= p.shape.samples) return;
  const uint64_t seed = static_cast<uint64_t>(p.seeds[sample]);
  Stored* out = sample_of<Stored>(p.out, sample);
  for_each_turn<span>(static_cast<uint32_t>(p.shape.elements), [&](uint32_t begin) {
    float value[span];
    make_tile<distribution>(p, seed, begin, value);
    store_dense(out, begin, value);
  });
}

template <Distribution distribution>
void launch_fill(const NoiseParameters& p, int device, Stream stream) {
  if constexpr (distribution != Distribution::gumbel) {
    const bool dense = choose_dense(p.shape, {&p.out}, [&]<class Stored, int span>() {
      launch<fill_dense<Stored, distribution, span>>(dense_grid(p.shape, span, device), stream, p);
    });
    if (dense) return;
  }
  choose_tile(p.in_double, p.shape, p.shape.elements, {&p.out}, [&]<class Real, int span, bool wide>() {
    launch<fill<Real, distribution, span, wide>>(tile_grid(p.shape, span), stream, p);
  });
}

__global__ void __launch_bounds__(kBlockThreads) hash(SeedParameters p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (i < p.count) p.out[i] = cuda::derived_seed(p.seed[i * p.seed_stride], p.stream, p.index[i * p.index_stride]);
}

struct Noise {
  static void run(const NoiseParameters& p, const Tensor& like) {
    const int device = like.get_device_index();
    const OnDevice on(device);
    switch (p.distribution) {
      case Distribution::gaussian:
        return launch_fill<Distribution::gaussian>(p, device, on.stream);
      case Distribution::uniform:
        return launch_fill<Distribution::uniform>(p, device, on.stream);
      case Distribution::gumbel:
        return launch_fill<Distribution::gumbel>(p, device, on.stream);
    }
  }

  static void run(const SeedParameters& p, const Tensor& like) {
    const OnDevice on(like.get_device_index());
    const int64_t blocks = (p.count + kBlockThreads - 1) / kBlockThreads;
    launch<hash>({dim3(static_cast<unsigned>(blocks)), dim3(kBlockThreads)}, on.stream, p);
  }
};

}  // namespace

VISGEN_REGISTER(CUDA, m) { NoiseOperations<Noise>::add_to(m); }

}  // namespace visgen
