// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), one definition for scalars,
// vectors and CUDA threads.
//
// A counter of four 32-bit words and a key of two give four words. Each word is carried in the lower half of a 64-bit
// lane whose upper half is not read: then the high half of a product is one shift away and the low half needs nothing.
// Per round: 2 multiplications 32×32→64, 2 shifts, 4 exclusive ors.
#pragma once

#include <cstdint>

#include "isa.h"

namespace visgen::VISGEN_ISA {

// The product of the lower halves of `lane` with `factor`. Vector types specialise it.
template <class Wide>
struct LowHalves {
  static VISGEN_HOST_DEVICE Wide multiply(Wide lane, uint32_t factor) {
#if defined(__CUDA_ARCH__)
    uint64_t product;  // spelled out, since to the other form nvcc adds a product of the upper half, which is 0
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(static_cast<uint32_t>(lane)), "r"(factor));
    return product;
#else
    return static_cast<uint64_t>(static_cast<uint32_t>(lane)) * factor;
#endif
  }
};

template <class Wide>
struct PhiloxBlock {
  Wide word[4];
};

// The key of each round, ready for 64-bit lanes.
struct PhiloxKey {
  uint64_t low[10], high[10];

  VISGEN_HOST_DEVICE explicit PhiloxKey(uint64_t seed) {
    uint32_t seed_low = static_cast<uint32_t>(seed), seed_high = static_cast<uint32_t>(seed >> 32);
    VISGEN_UNROLL
    for (int round = 0; round < 10; ++round) {
      low[round] = seed_low;
      high[round] = seed_high;
      seed_low += 0x9E3779B9u;
      seed_high += 0xBB67AE85u;
    }
  }
};

template <class Wide>
VISGEN_HOST_DEVICE PhiloxBlock<Wide> philox4x32(PhiloxBlock<Wide> counter, const PhiloxKey& key) {
  VISGEN_UNROLL
  for (int round = 0; round < 10; ++round) {
    const Wide product_0 = LowHalves<Wide>::multiply(counter.word[0], 0xD2511F53u);
    const Wide product_1 = LowHalves<Wide>::multiply(counter.word[2], 0xCD9E8D57u);
    counter.word[0] = (product_1 >> 32) ^ counter.word[1] ^ key.low[round];
    counter.word[2] = (product_0 >> 32) ^ counter.word[3] ^ key.high[round];
    counter.word[1] = product_1;
    counter.word[3] = product_0;
  }
  return counter;
}

// Four words of (seed, stream) for the elements 4·block … 4·block + 3 of a sample.
VISGEN_HOST_DEVICE PhiloxBlock<uint64_t> philox_block(uint64_t seed, uint64_t stream, uint64_t block) {
  return philox4x32<uint64_t>({{block, block >> 32, stream, stream >> 32}}, PhiloxKey(seed));
}

// The first two of the words of (seed, stream, block `index`): a fresh seed for the sample `index`.
VISGEN_HOST_DEVICE int64_t derived_seed(uint64_t seed, uint64_t stream, uint64_t index) {
  const auto block = philox_block(seed, stream, index);
  return static_cast<int64_t>((block.word[0] & 0xFFFFFFFFu) | block.word[1] << 32);
}

}  // namespace visgen::VISGEN_ISA
