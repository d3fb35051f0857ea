// The family `binary_quantize`: what its kernels are told.
#pragma once

#include "code_rows.h"

namespace visgen {

// Binary codes: ±corner by the sign of u, which is x, or x scaled to the sphere of radius `radius`.
struct BinaryParameters : CodeRows {
  double corner = 1;
  double radius = 0;      // 0: not spherical
  double logit_of_u = 0;  // what u is multiplied with: a bit is set with probability sigmoid(logit)
  // For entropies. Groups of group_bits consecutive bits (fewer in the last), each with a table of its codes.
  bool with_entropy = false;
  int group_bits = 1, groups = 1;
  void* sample_entropy = nullptr;      // [rows]; backward: the gradient that arrives, or null
  void* batch_entropy = nullptr;       // [1]; backward: the gradient that arrives, or null
  void* surprisal = nullptr;           // [groups, 2^group_bits]: −ln of the codes' mean probabilities
  double* probability_sums = nullptr;  // [units, groups, 2^group_bits]: over the rows of each unit
  double* entropy_sums = nullptr;      // [chunks of kChunk entries of the tables]
  void* grad_logits = nullptr;         // [rows, columns], scratch of a GPU's backward

  VISGEN_HOST_DEVICE int64_t entries() const { return static_cast<int64_t>(groups) << group_bits; }
};

constexpr int64_t kChunk = 256;  // entries of the tables whose entropy is added up together

// The bits of a group: its codes are pairs of `high` and `low` bits, so that their probabilities are an outer product.
struct Group {
  int first, bits, high, low;
};

VISGEN_HOST_DEVICE Group group_at(const BinaryParameters& p, int index) {
  const int first = index * p.group_bits, left = p.columns - first;
  const int bits = left < p.group_bits ? left : p.group_bits;
  return {first, bits, bits / 2, bits - bits / 2};
}

}  // namespace visgen
