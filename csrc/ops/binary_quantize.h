// The family `binary_quantize`: what its kernels are told.
#pragma once

#include "code_rows.h"

namespace visgen {

// Binary codes: ±corner by the sign of u, which is x, or x scaled to the sphere of radius `radius`.
struct BinaryRows : CodeRows {
  double corner = 1;
  double radius = 0;               // 0: not spherical
  double logit_of_u = 0;           // what u is multiplied with: a bit is set with probability sigmoid(logit)
  int group_bits = 1, groups = 1;  // for entropies: groups of consecutive bits (fewer in the last)
  Operand x;

  // Of the tables of all groups' codes, [groups, 2^group_bits].
  VISGEN_HOST_DEVICE int64_t entries() const { return static_cast<int64_t>(groups) << group_bits; }
};

struct BinaryParameters : BinaryRows {
  Operand quantized;
  int64_t* codes = nullptr;  // [rows]
  // Absent where nobody asks for entropies, all of them; real but for the sums.
  void* sample_entropy = nullptr;      // [rows]
  void* batch_entropy = nullptr;       // [1]
  void* surprisal = nullptr;           // [entries]: −ln of the codes' mean probabilities
  double* probability_sums = nullptr;  // [units, entries]: over the rows of each unit; zeros
  double* entropy_sums = nullptr;      // [chunks of kChunk entries]
};

struct BinaryBackwardParameters : BinaryRows {
  Operand grad_quantized, grad_x;  // the gradients that arrive, here and below, may be absent
  const void *grad_sample_entropy = nullptr, *grad_batch_entropy = nullptr;  // [rows] and [1], real
  const void* surprisal = nullptr;  // [entries] real; there if grad_batch_entropy is
};

// Codes as vectors of ±corner, the first column the most significant bit.
struct Corners {
  double corner;

  struct Column {
    double corner;
    int bit;
    VISGEN_HOST_DEVICE double take(int64_t& code) const { return code >> bit & 1 ? corner : -corner; }
  };
  VISGEN_HOST_DEVICE Column at(int column, int columns) const { return {corner, columns - 1 - column}; }
  VISGEN_HOST_DEVICE bool is_code(int64_t code, int columns) const { return code >> columns == 0; }
};

struct BinaryDecodeParameters : DecodedRows<Corners> {};

constexpr int64_t kChunk = 256;  // entries of the tables whose entropy is added up together

// The bits of a group: its codes are pairs of `high` and `low` bits, so that their probabilities are an outer product.
struct Group {
  int first, bits, high, low;
};

VISGEN_HOST_DEVICE Group group_at(const BinaryRows& p, int index) {
  const int first = index * p.group_bits, left = p.columns - first;
  const int bits = left < p.group_bits ? left : p.group_bits;
  return {first, bits, bits / 2, bits - bits / 2};
}

}  // namespace visgen
