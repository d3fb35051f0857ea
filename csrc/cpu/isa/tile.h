// A tile: some hundred consecutive elements of one sample, brought to float (or double) arithmetic in the first-level
// cache.
//
// Loading and storing know element types and memory layouts; what happens between them knows neither. A contiguous
// operand that already has the arithmetic's type is used in place.
#pragma once

#include "../../common/layout.h"
#include "stored.h"

namespace visgen::VISGEN_ISA {

constexpr int kSet = 4 * kLanes;                  // elements of a set of blocks
constexpr int kGroup = BlockWords::kSets * kSet;  // elements that one vector Philox makes
constexpr int kTile =
    512;  // a multiple of every kGroup; large enough to spread a tile's overhead, small enough for the cache

// Calls body(offset of a run's first element, its stride, its length) for the runs that make up elements
// [begin, begin + count) of a sample.
template <class Body>
inline void for_each_run(const SampleShape& shape, const int64_t* strides, int64_t begin, int64_t count, Body body) {
  const int last = shape.dimensions - 1;
  if (last == 0) return body(begin * strides[0], strides[0], count);  // spares the divisions below
  while (count > 0) {
    int64_t rest = begin / shape.sizes[last], offset = 0;
    const int64_t inner = begin % shape.sizes[last];
    for (int d = last - 1; d >= 0; --d, rest /= shape.sizes[d + 1]) offset += rest % shape.sizes[d] * strides[d];
    const int64_t run = count < shape.sizes[last] - inner ? count : shape.sizes[last] - inner;
    body(offset + inner * strides[last], strides[last], run);
    begin += run;
    count -= run;
  }
}

template <class Stored, DType dtype, class Real>
void load_as(const Operand& operand, const SampleShape& shape, int64_t sample, int64_t begin, int64_t count,
             Real* out) {
  const Stored* base = static_cast<const Stored*>(operand.data) + sample * operand.sample_stride;
  for_each_run(shape, operand.strides, begin, count, [&](int64_t offset, int64_t stride, int64_t run) {
    const Stored* in = base + offset;
    const auto load = [&](int64_t step) __attribute__((always_inline)) {
      for (int64_t i = 0; i < run; ++i) out[i] = decode<Real>(in[i * step], dtype);
    };
    if (stride == 1) {
      decode_all<dtype>(in, run, out);
    } else {  // shuffles pick every third or fourth number: three or four channels that are last in memory
      stride == 3 ? load(3) : stride == 4 ? load(4) : load(stride);
    }
    out += run;
  });
}

template <class Stored, DType dtype, class Real>
void store_as(const Operand& operand, const SampleShape& shape, int64_t sample, int64_t begin, int64_t count,
              const Real* in) {
  Stored* base = static_cast<Stored*>(operand.data) + sample * operand.sample_stride;
  for_each_run(shape, operand.strides, begin, count, [&](int64_t offset, int64_t stride, int64_t run) {
    Stored* out = base + offset;
    if (stride == 1) {
      encode_all<dtype>(in, run, out);
    } else {
      for (int64_t i = 0; i < run; ++i) encode(in[i], out[i * stride], dtype);
    }
    in += run;
  });
}

template <class Real>
bool usable_in_place(const Operand& operand, const SampleShape& shape) {
  return operand.dtype == kArithmetic<Real> && shape.dimensions == 1 && operand.strides[0] == 1;
}

// Elements [begin, begin + count) of a sample, in `buffer` or where they already are.
template <class Real>
const Real* load_tile(const Operand& operand, const SampleShape& shape, int64_t sample, int64_t begin, int64_t count,
                      Real* buffer) {
  if (usable_in_place<Real>(operand, shape))
    return static_cast<const Real*>(operand.data) + sample * operand.sample_stride + begin;
  visit(operand.dtype,
        [&]<class Stored, DType dtype>() { load_as<Stored, dtype>(operand, shape, sample, begin, count, buffer); });
  return buffer;
}

// Where to compute a tile of an output: in its own memory, or in `buffer` for store_tile to bring there.
template <class Real>
Real* tile_for_output(const Operand& operand, const SampleShape& shape, int64_t sample, int64_t begin, Real* buffer) {
  return usable_in_place<Real>(operand, shape)
             ? static_cast<Real*>(operand.data) + sample * operand.sample_stride + begin
             : buffer;
}

template <class Real>
void store_tile(const Operand& operand, const SampleShape& shape, int64_t sample, int64_t begin, int64_t count,
                const Real* tile) {
  if (usable_in_place<Real>(operand, shape)) return;
  visit_floating(operand.dtype, [&]<class Stored, DType dtype>() {
    store_as<Stored, dtype>(operand, shape, sample, begin, count, tile);
  });
}

// Words [begin, begin + count) of a sample's stream, in their order; begin is a multiple of 4, and `words` has room for
// whole groups.
inline void word_tile(const PhiloxKey& key, uint64_t stream, int64_t begin, int64_t count, uint32_t* words) {
  for (int64_t done = 0; done < count; done += kGroup) {
    BlockWords blocks = philox_blocks(key, stream, static_cast<uint64_t>(begin + done) / 4);
    for (int i = 0; i < BlockWords::kSets; ++i) {
      interleave(blocks.set[i]);
      memcpy(words + done + i * kSet, blocks.set[i], sizeof(blocks.set[i]));
    }
  }
}

// The normal numbers of a set of blocks, in the order of their elements.
VISGEN_HOST_DEVICE void normal_set(const WordVector (&word)[4], FloatVector (&normal)[4]) {
  normal_pair<WordVector>(word[0], word[1], normal[0], normal[1]);
  normal_pair<WordVector>(word[2], word[3], normal[2], normal[3]);
  interleave(normal);
}

// Standard normal numbers of elements [begin, begin + count) of a sample: returns where the first of them stands in
// `buffer`, which has room for kTile + kGroup.
inline const float* normal_tile(uint64_t seed, uint64_t stream, int64_t begin, int64_t count, float* buffer) {
  const PhiloxKey key(seed);
  const int64_t skipped = begin % 4;
  for (int64_t done = 0; done < count + skipped; done += kGroup) {
    const BlockWords words = philox_blocks(key, stream, static_cast<uint64_t>(begin + done) / 4);
    for (int i = 0; i < BlockWords::kSets; ++i) {
      FloatVector normal[4];
      normal_set(words.set[i], normal);
      memcpy(buffer + done + i * kSet, normal, sizeof(normal));
    }
  }
  return buffer + skipped;
}

inline const double* normal_tile(uint64_t seed, uint64_t stream, int64_t begin, int64_t count, double* buffer) {
  const int64_t skipped = begin % 4;
  for (int64_t done = 0; done < count + skipped; done += 4) {
    const auto words = philox_block(seed, stream, static_cast<uint64_t>(begin + done) / 4);
    for (int pair = 0; pair < 4; pair += 2) {
      normal_pair(static_cast<uint32_t>(words.word[pair]), static_cast<uint32_t>(words.word[pair + 1]),
                  buffer[done + pair], buffer[done + pair + 1]);
    }
  }
  return buffer + skipped;
}

}  // namespace visgen::VISGEN_ISA
