// What loops that noise pictures are made of: the noise of a tile, and its rows of coefficients.
#pragma once

#include "../../ops/diffuse.h"
#include "tile.h"

namespace visgen::VISGEN_ISA {

// Noise that is given, or made from the seeds.
template <class Real>
const Real* noise_tile(const Diffusion& p, int64_t sample, int64_t begin, int64_t count, Real* buffer) {
  if (p.noise.data) return load_tile(p.noise, p.shape, sample, begin, count, buffer);
  return normal_tile(static_cast<uint64_t>(p.seeds[sample]), p.stream, begin, count, buffer);
}

// Calls body(place, vector of normal numbers) for whole groups from `begin`, a multiple of 4, on. With AVX-512's 32
// registers the noise goes from them straight to where it is used, so that storing one group overlaps with computing
// the next: a fifth faster than through the cache. The key is the caller's: made here, the compiler would spread it
// over vectors at each call, which takes as long as 40 numbers.
template <class Body>
VISGEN_HOST_DEVICE void for_each_normal_vector(const PhiloxKey& key, uint64_t stream, int64_t begin, int64_t count,
                                               Body body) {
  for (int64_t done = 0; done < count; done += kGroup) {
    const BlockWords words = philox_blocks(key, stream, static_cast<uint64_t>(begin + done) / 4);
    for (int i = 0; i < BlockWords::kSets; ++i) {
      FloatVector z[4];
      normal_set(words.set[i], z);
      for (int j = 0; j < 4; ++j) body(done + i * kSet + j * kLanes, z[j]);
    }
  }
}

template <class Real>
void combine(Real a, const Real* __restrict x, Real b, const Real* __restrict z, Real* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = a * x[i] + b * z[i];
}

template <class Real>
void add_scaled(Real e, const Real* __restrict x, Real* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] += e * x[i];
}

// Calls body(row of coefficients, offset in the tile, length) for the rows that a tile meets.
template <class Body>
void for_each_row(const Diffusion& p, int64_t sample, int64_t begin, int64_t count, Body body) {
  if (p.row_size == p.shape.elements) return body(sample, 0, count);
  const int64_t rows_per_sample = p.shape.elements / p.row_size;
  for (int64_t offset = 0; offset < count;) {
    const int64_t row = (begin + offset) / p.row_size;
    const int64_t left = (row + 1) * p.row_size - (begin + offset);
    const int64_t length = left < count - offset ? left : count - offset;
    body(sample * rows_per_sample + row, offset, length);
    offset += length;
  }
}

}  // namespace visgen::VISGEN_ISA
