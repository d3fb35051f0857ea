// A batch of samples in memory: how a kernel finds element i of sample b.
//
// Elements are numbered row-major within a sample, whatever the memory layout; that number is what random values depend
// on. Dimensions that are adjacent in every operand are merged, so a contiguous operand has one dimension of stride 1.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "isa.h"

namespace visgen {

constexpr int kMaxDimensions = 8;  // of a sample, before merging

struct Operand {
  void* data = nullptr;  // null: absent
  DType dtype = DType::float32;
  int64_t sample_stride = 0;              // in elements
  int64_t strides[kMaxDimensions] = {0};  // of the merged dimensions, in elements
};

struct SampleShape {
  int64_t samples = 0;
  int64_t elements = 1;  // of one sample
  int dimensions = 1;    // after merging
  int64_t sizes[kMaxDimensions] = {1};
};

// 64-bit division takes some hundred instructions on a GPU; nearly every size fits 32 bits.
VISGEN_HOST_DEVICE int64_t divide(int64_t numerator, int64_t denominator) {
  if (((numerator | denominator) >> 32) == 0) {
    return static_cast<uint32_t>(numerator) / static_cast<uint32_t>(denominator);
  }
  return numerator / denominator;
}

}  // namespace visgen
