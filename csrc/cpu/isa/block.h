// A block: eight vectors of consecutive elements, in the arithmetic's type and in registers.
//
// It is halved down to single vectors, since compilers leave an array of vectors in memory.
#pragma once

#include "stored.h"

namespace visgen::VISGEN_ISA {

template <class Real, int parts = 8>
struct Block {
  static constexpr int kHalf = parts / 2 * kVectorBytes / sizeof(Real), kSize = 2 * kHalf;
  Block<Real, parts / 2> low, high;

  // Of each vector: change(vector) and, of two blocks, change(vector, other's vector).
  template <class Change, class... Others>
  VISGEN_HOST_DEVICE void each(Change change, const Others&... others) {
    low.each(change, others.low...);
    high.each(change, others.high...);
  }
};

template <class Real>
struct Block<Real, 1> {
  typedef Real Vector __attribute__((vector_size(kVectorBytes)));
  Vector vector{};

  template <class Change, class... Others>
  VISGEN_HOST_DEVICE void each(Change change, const Others&... others) {
    change(vector, others.vector...);
  }
};

template <class Real>
VISGEN_HOST_DEVICE Block<Real> load_block(const Real* data) {
  Block<Real> block;
  block.each([&](auto& vector) {
    memcpy(&vector, data, sizeof(vector));
    data += sizeof(vector) / sizeof(Real);
  });
  return block;
}

template <class Real>
VISGEN_HOST_DEVICE void store_block(Block<Real> block, Real* data) {
  block.each([&](auto& vector) {
    memcpy(data, &vector, sizeof(vector));
    data += sizeof(vector) / sizeof(Real);
  });
}

VISGEN_HOST_DEVICE Block<float> load_bfloat16(const BFloat16Bits* data) {
  Block<float> block;
  block.each([&](FloatVector& vector) {
    vector = take<FloatVector>(data);
    data += kLanes;
  });
  return block;
}

VISGEN_HOST_DEVICE void store_bfloat16(Block<float> block, BFloat16Bits* data) {
  block.each([&](const FloatVector& vector) {
    put(data, vector);
    data += kLanes;
  });
}

// From consecutive elements of any floating-point type.
template <class Real>
VISGEN_HOST_DEVICE Block<Real> load_block(const void* data, DType dtype) {
  if (dtype == kArithmetic<Real>) return load_block(static_cast<const Real*>(data));
  if constexpr (sizeof(Real) == 4) {
    if (dtype == DType::bfloat16) return load_bfloat16(static_cast<const BFloat16Bits*>(data));
  }
  alignas(64) Real values[Block<Real>::kSize];
  visit_floating(dtype, [&]<class Stored, DType type>() {
    decode_all<type>(static_cast<const Stored*>(data), Block<Real>::kSize, values);
  });
  return load_block<Real>(values);
}

template <class Real>
VISGEN_HOST_DEVICE void store_block(const Block<Real>& block, void* data, DType dtype) {
  if (dtype == kArithmetic<Real>) return store_block(block, static_cast<Real*>(data));
  if constexpr (sizeof(Real) == 4) {
    if (dtype == DType::bfloat16) return store_bfloat16(block, static_cast<BFloat16Bits*>(data));
  }
  alignas(64) Real values[Block<Real>::kSize];
  store_block(block, values);
  visit_floating(dtype, [&]<class Stored, DType type>() {
    encode_all<type>(values, Block<Real>::kSize, static_cast<Stored*>(data));
  });
}

}  // namespace visgen::VISGEN_ISA
