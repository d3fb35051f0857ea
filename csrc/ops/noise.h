// The family `noise`: what its kernels are told.
#pragma once

#include "../common/layout.h"
#include "../common/partition.h"

namespace visgen {

enum class Distribution { gaussian, uniform, gumbel };

struct NoiseParameters {
  Distribution distribution = Distribution::gaussian;
  SampleShape shape;
  Partition partition{0, 0, 0, 1};
  bool in_double = false;
  const int64_t* seeds = nullptr;  // [samples]
  uint64_t stream = 0;
  Operand out;
  float smallest = 0;  // what a uniform number that would round to 0 becomes
};

// out[i] = hash(seed[i·seed_stride], stream, index[i·index_stride]).
struct SeedParameters {
  const int64_t* seed;
  int64_t seed_stride;
  const int64_t* index;
  int64_t index_stride;
  uint64_t stream;
  int64_t count;
  int64_t* out;
};

}  // namespace visgen
