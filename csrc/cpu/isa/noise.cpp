// The family `noise` on one instruction set: values from Philox words, written once in the output's type and layout.
#include "../../ops/noise.h"

#include "../kernels.h"
#include "tile.h"

namespace visgen::VISGEN_ISA {
namespace {

const float* uniform_tile(uint64_t seed, uint64_t stream, int64_t begin, int64_t count, float smallest, float* buffer) {
  const PhiloxKey key(seed);
  for (int64_t done = 0; done < count; done += kGroup) {
    BlockWords words = philox_blocks(key, stream, static_cast<uint64_t>(begin + done) / 4);
    for (int i = 0; i < BlockWords::kSets; ++i) interleave(words.set[i]);
    uint32_t word[kGroup];
    memcpy(word, words.set, sizeof(word));
    for (int i = 0; i < kGroup; ++i) {
      const float value = uniform_float(word[i]);
      buffer[done + i] = value < smallest ? smallest : value;
    }
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

// Units of a whole sample begin at multiples of kUnit, so every tile begins with a block.
template <class Real>
void fill(const NoiseParameters& p, int64_t first_unit, int64_t last_unit) {
  alignas(64) Real buffer[kTile + kGroup];
  for (int64_t index = first_unit; index < last_unit; ++index) {
    const Unit unit = unit_at(p.partition, index);
    const uint64_t seed = static_cast<uint64_t>(p.seeds[unit.sample]);
    for (int64_t begin = unit.begin; begin < unit.end; begin += kTile) {
      const int64_t count = kTile < unit.end - begin ? kTile : unit.end - begin;
      const Real* value = p.distribution == Distribution::gaussian
                              ? normal_tile(seed, p.stream, begin, count, buffer)
                              : uniform_tile(seed, p.stream, begin, count, p.smallest, buffer);
      Real* out = tile_for_output(p.out, p.shape, unit.sample, begin, buffer);
      if (out != value) memcpy(out, value, sizeof(Real) * count);
      store_tile(p.out, p.shape, unit.sample, begin, count, out);
    }
  }
}

}  // namespace

const Loops<NoiseParameters> noise_kernels = {{fill<float>, fill<double>}};

}  // namespace visgen::VISGEN_ISA
