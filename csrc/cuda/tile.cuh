// A thread's tile: `span` consecutive elements of one sample, in registers and in float (or double) arithmetic.
//
// Element types are read from the operand at run time (elements.cuh). Memory layouts are of two kinds, and a kernel is
// compiled for each: `wide`, where every operand's tiles can be moved in single accesses, and any other, where elements
// are found one by one.
#pragma once

#include <initializer_list>

#include "../common/layout.h"
#include "../common/philox.h"
#include "elements.cuh"

namespace visgen {

constexpr int64_t kMostBlocks = 65535;        // of gridDim.y
constexpr int64_t kMostElements = 1LL << 30;  // of a sample that 32-bit indices number, a grid's stride added

// Whether whole tiles of `span` elements can be read and written in single accesses.
inline bool is_wide(const Operand& operand, const SampleShape& shape, int span) {
  const int64_t bytes = size_of(operand.dtype), alignment = bytes * span < kWideBytes ? bytes * span : kWideBytes;
  return shape.dimensions == 1 && operand.strides[0] == 1 && shape.elements % span == 0 &&
         reinterpret_cast<uintptr_t>(operand.data) % alignment == 0 &&
         (shape.samples == 1 || operand.sample_stride * bytes % alignment == 0);
}

// Calls call<type of arithmetic, span, wide>() as constants for the operands that are there: wide tiles of `widest`
// elements where these are 2 bytes or fewer, else of one Philox block, if tiles lie within rows of `row_size` elements.
// float64's accesses are too wide to need it.
template <int widest = 8, class Call>
void choose_tile(bool in_double, const SampleShape& shape, int64_t row_size,
                 std::initializer_list<const Operand*> operands, Call call) {
  const auto fits = [&](int span, int64_t most_bytes) {
    bool all = row_size % span == 0;
    for (const Operand* operand : operands) {
      if (operand->data) all = all && size_of(operand->dtype) <= most_bytes && is_wide(*operand, shape, span);
    }
    return all;
  };
  if (in_double) return call.template operator()<double, 4, false>();
  if constexpr (widest == 8) {
    if (fits(8, 2)) return call.template operator()<float, 8, true>();
  }
  if (fits(4, 8)) return call.template operator()<float, 4, true>();
  call.template operator()<float, 4, false>();
}

// Calls call<what elements are stored as, span>() for kernels that are compiled for one element type: where all
// operands that are there hold 16-bit floats, or float32, in whole wide tiles, and 32 bits number the elements of a
// sample. Says whether it did.
template <class Call>
bool choose_dense(const SampleShape& shape, std::initializer_list<const Operand*> operands, Call call) {
  const DType dtype = (*operands.begin())->dtype;
  const int span = size_of(dtype) == 2 ? 8 : 4;
  bool dense = shape.elements <= kMostElements && shape.samples <= kMostBlocks;
  for (const Operand* operand : operands) {
    if (operand->data) dense = dense && operand->dtype == dtype && is_wide(*operand, shape, span);
  }
  if (!dense || dtype == DType::uint8 || dtype == DType::float64) return false;
  if (dtype == DType::float16) call.template operator()<Half, 8>();
  if (dtype == DType::bfloat16) call.template operator()<BFloat16, 8>();
  if (dtype == DType::float32) call.template operator()<float, 4>();
  return true;
}

__device__ __forceinline__ int64_t offset_of(const Operand& operand, const SampleShape& shape, int64_t sample,
                                             int64_t element) {
  int64_t offset = sample * operand.sample_stride;
  for (int d = shape.dimensions - 1; d > 0; --d) {
    const int64_t outer = divide(element, shape.sizes[d]);
    offset += (element - outer * shape.sizes[d]) * operand.strides[d];
    element = outer;
  }
  return offset + element * operand.strides[0];
}

template <class Stored, class Real, int span>
__device__ __forceinline__ void decode_all(const Vec<Stored, span>& values, Real (&out)[span]) {
  if constexpr (std::is_same_v<Stored, BFloat16> && std::is_same_v<Real, float> && span % 2 == 0) {
    const auto pairs = cuda::bits_as<Vec<uint32_t, span / 2>>(values);  // an instruction an element
    VISGEN_UNROLL
    for (int i = 0; i < span; i += 2) {
      out[i] = cuda::bits_as<float>(pairs[i / 2] << 16);
      out[i + 1] = cuda::bits_as<float>(pairs[i / 2] & 0xFFFF0000u);
    }
  } else {
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) out[i] = decode<Real>(values[i]);
  }
}

template <bool wide, class Stored, class Real, int span>
__device__ __forceinline__ void load_as(const Operand& source, const SampleShape& shape, int64_t sample, int64_t begin,
                                        Real (&out)[span]) {
  const Stored* data = static_cast<const Stored*>(source.data);
  if constexpr (wide) {
    decode_all(load_vec<span>(data + sample * source.sample_stride + begin), out);
  } else {
    VISGEN_NO_UNROLL
    for (int i = 0; i < span; ++i) {
      out[i] = begin + i < shape.elements ? decode<Real>(data[offset_of(source, shape, sample, begin + i)]) : Real(0);
    }
  }
}

template <bool wide, class Stored, class Real, int span>
__device__ __forceinline__ void store_as(const Operand& destination, const SampleShape& shape, int64_t sample,
                                         int64_t begin, const Real (&in)[span]) {
  Stored* data = static_cast<Stored*>(destination.data);
  if constexpr (wide) {
    Vec<Stored, span> values;
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) values[i] = convert<Stored>(in[i]);
    store_vec(data + sample * destination.sample_stride + begin, values);
  } else {
    VISGEN_NO_UNROLL
    for (int i = 0; i < span; ++i) {
      if (begin + i < shape.elements) data[offset_of(destination, shape, sample, begin + i)] = convert<Stored>(in[i]);
    }
  }
}

// Elements past the end of the sample read as 0, and so does an absent operand.
template <bool wide, class Real, int span>
__device__ __forceinline__ void load_tile(const Operand& source, const SampleShape& shape, int64_t sample,
                                          int64_t begin, Real (&out)[span]) {
  if (!source.data) {
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) out[i] = Real(0);
    return;
  }
  visit(source.dtype, [&]<class Stored>() { load_as<wide, Stored>(source, shape, sample, begin, out); });
}

// Elements past the end of the sample are dropped, but not those of the next row: a kernel that works row by row takes
// tiles of one element where they are not wide. An absent operand takes nothing.
template <bool wide, class Real, int span>
__device__ __forceinline__ void store_tile(const Operand& destination, const SampleShape& shape, int64_t sample,
                                           int64_t begin, const Real (&in)[span]) {
  if (!destination.data) return;
  visit_floating(destination.dtype,
                 [&]<class Stored>() { store_as<wide, Stored>(destination, shape, sample, begin, in); });
}

// The tile of an operand that holds Stored; `data` is its sample's. For kernels compiled for one element type.
template <class Stored, int span>
__device__ __forceinline__ void load_dense(const Stored* data, uint32_t begin, float (&out)[span]) {
  decode_all(load_vec<span>(data + begin), out);
}

template <class Stored, int span>
__device__ __forceinline__ void store_dense(Stored* data, uint32_t begin, const float (&in)[span]) {
  Vec<Stored, span> values;
  VISGEN_UNROLL
  for (int i = 0; i < span; ++i) values[i] = convert<Stored>(in[i]);
  store_vec(data + begin, values);
}

template <class Stored>
__device__ __forceinline__ Stored* sample_of(const Operand& operand, uint32_t sample) {
  return static_cast<Stored*>(operand.data) + sample * operand.sample_stride;
}

// Standard normal numbers of elements begin … begin + span − 1; begin and span are multiples of 4.
template <int span>
__device__ __forceinline__ void normal_tile(uint64_t seed, uint64_t stream, int64_t begin, float (&out)[span]) {
  VISGEN_UNROLL
  for (int i = 0; i < span; i += 4) {
    const auto block = cuda::philox_block(seed, stream, static_cast<uint64_t>(begin + i) / 4);
    uint32_t word[4];
    VISGEN_UNROLL
    for (int j = 0; j < 4; ++j) word[j] = static_cast<uint32_t>(block.word[j]);
    cuda::normal_pair<uint32_t>(word[0], word[1], out[i], out[i + 1]);
    cuda::normal_pair<uint32_t>(word[2], word[3], out[i + 2], out[i + 3]);
  }
}

template <int span>
__device__ __forceinline__ void normal_tile(uint64_t seed, uint64_t stream, int64_t begin, double (&out)[span]) {
  VISGEN_NO_UNROLL
  for (int i = 0; i < span; i += 2) {
    const auto block = cuda::philox_block(seed, stream, static_cast<uint64_t>(begin + i) / 4);
    const int first = i % 4;
    cuda::normal_pair(static_cast<uint32_t>(block.word[first]), static_cast<uint32_t>(block.word[first + 1]), out[i],
                      out[i + 1]);
  }
}

// One thread a tile. Blocks along x cover a sample, blocks along y the samples; where samples are short, a block takes
// several, a row of its threads for each. A kernel loops over the samples beyond kMostBlocks.
inline LaunchShape tile_grid(const SampleShape& shape, int span) {
  const int64_t tiles = (shape.elements + span - 1) / span;
  unsigned across = kBlockThreads;
  while (across / 2 >= tiles && across > 1) across /= 2;
  const unsigned down = kBlockThreads / across;
  const int64_t blocks = (shape.samples + down - 1) / down;
  return {dim3(static_cast<unsigned>((tiles + across - 1) / across),
               static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks)),
          dim3(across, down)};
}

// The same without many more threads than the device holds at once: each takes tiles of its sample in turn, and makes
// what all tiles of the sample need once. For samples up to kMostBlocks.
inline LaunchShape dense_grid(const SampleShape& shape, int span, int device) {
  LaunchShape blocks = tile_grid(shape, span);
  const int64_t held = static_cast<int64_t>(multiprocessor_count(device)) * (2048 / kBlockThreads);
  const int64_t turns = static_cast<int64_t>(blocks.grid.x) * blocks.grid.y / held;
  if (turns > 1) blocks.grid.x = static_cast<unsigned>((blocks.grid.x + turns - 1) / turns);
  return blocks;
}

// Calls body(first element) for this thread's tiles of a sample, for kernels of a dense_grid.
template <int span, class Body>
__device__ __forceinline__ void for_each_turn(uint32_t elements, Body body) {
  const uint32_t step = gridDim.x * blockDim.x * span;
  VISGEN_NO_UNROLL
  for (uint32_t begin = (blockIdx.x * blockDim.x + threadIdx.x) * span; begin < elements; begin += step) body(begin);
}

template <int span>
__device__ __forceinline__ int64_t first_of_tile() {
  return (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * span;
}

__device__ __forceinline__ int64_t first_sample() {
  return static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y;
}

__device__ __forceinline__ int64_t sample_step() { return static_cast<int64_t>(gridDim.y) * blockDim.y; }

}  // namespace visgen
