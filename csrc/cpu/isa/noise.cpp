// The family `noise` on one instruction set: values from Philox words, written once in the output's type and layout.
#include "../../ops/noise.h"

#include "../kernels.h"
#include "tile.h"

namespace visgen::VISGEN_ISA {
namespace {

const float* uniform_tile(uint64_t seed, uint64_t stream, int64_t begin, int64_t count, float smallest, float* buffer) {
  uint32_t words[kTile + kGroup];
  word_tile(PhiloxKey(seed), stream, begin, count, words);
  for (int64_t i = 0; i < count; ++i) {
    const float value = uniform_float(words[i]);
    buffer[i] = value < smallest ? smallest : value;
  }
  return buffer;
}

const double* uniform_tile(uint64_t seed, uint64_t stream, int64_t begin, int64_t count, float, double* buffer) {
  for (int64_t done = 0; done < count; done += 4) {
    const auto words = philox_block(seed, stream, static_cast<uint64_t>(begin + done) / 4);
    for (int j = 0; j < 4; ++j) buffer[done + j] = uniform_double(static_cast<uint32_t>(words.word[j]));
  }
  return buffer;
}

// Always in double: the 48 bits of a number don't fit a float.
template <class Real>
const Real* gumbel_tile(uint64_t seed, uint64_t stream, int64_t begin, int64_t count, Real* buffer) {
  typedef uint16_t Halves __attribute__((vector_size(2 * kDoubles)));
  typedef uint32_t Words __attribute__((vector_size(4 * kDoubles)));
  typedef Real Reals __attribute__((vector_size(sizeof(Real) * kDoubles)));
  uint32_t leading[kTile / 2 + kGroup], rest[kTile + kGroup];
  const PhiloxKey key(seed);
  word_tile(key, stream, begin / 2, (count + 1) / 2, leading);
  word_tile(key, rest_stream(stream), begin, count, rest);
  for (int64_t i = 0; i < count; i += kDoubles) {
    Halves high;
    Words low;
    memcpy(&high, reinterpret_cast<const uint16_t*>(leading) + i, sizeof(high));
    memcpy(&low, rest + i, sizeof(low));
    const WideVector bits = __builtin_convertvector(high, WideVector) << 32 | __builtin_convertvector(low, WideVector);
    const Reals values = __builtin_convertvector(gumbel<DoubleVector>(bits), Reals);
    memcpy(buffer + i, &values, sizeof(values));
  }
  return buffer;
}

template <class Real>
const Real* make_tile(const NoiseParameters& p, uint64_t seed, int64_t begin, int64_t count, Real* buffer) {
  switch (p.distribution) {
    case Distribution::gaussian:
      return normal_tile(seed, p.stream, begin, count, buffer);
    case Distribution::uniform:
      return uniform_tile(seed, p.stream, begin, count, p.smallest, buffer);
    default:
      return gumbel_tile(seed, p.stream, begin, count, buffer);
  }
}

// Units of a whole sample begin at multiples of kUnit, so every tile begins with a block, and with the halves of one.
template <class Real>
void fill(const NoiseParameters& p, int64_t first_unit, int64_t last_unit) {
  alignas(64) Real buffer[kTile + kGroup];
  for (int64_t index = first_unit; index < last_unit; ++index) {
    const Unit unit = unit_at(p.partition, index);
    const uint64_t seed = static_cast<uint64_t>(p.seeds[unit.sample]);
    for (int64_t begin = unit.begin; begin < unit.end; begin += kTile) {
      const int64_t count = kTile < unit.end - begin ? kTile : unit.end - begin;
      const Real* value = make_tile(p, seed, begin, count, buffer);
      Real* out = tile_for_output(p.out, p.shape, unit.sample, begin, buffer);
      if (out != value) memcpy(out, value, sizeof(Real) * count);
      store_tile(p.out, p.shape, unit.sample, begin, count, out);
    }
  }
}

}  // namespace

const Loops<NoiseParameters> noise_kernels = {{fill<float>, fill<double>}};

}  // namespace visgen::VISGEN_ISA
