// The family `noise`: what its kernels are told.
#pragma once

#include "../common/layout.h"
#include "../common/partition.h"

namespace visgen {

enum class Distribution { gaussian, uniform };

struct NoiseParameters {
  SampleShape shape;
  Partition partition;
  const int64_t* seeds;
  uint64_t stream;
  Operand out;
  float smallest;  // what a uniform number that would round to 0 becomes
};

}  // namespace visgen
