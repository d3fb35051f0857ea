// Rows of the family `modulate` on a GPU, and of what modulates them: a warp a row, its lanes a few columns at a time.
#pragma once

#include "../ops/modulate.h"
#include "operand_rows.cuh"

namespace visgen {

inline bool has_wide_columns(const Operand (&slots)[kSlots][kTerms], const SampleShape& shape, int span) {
  bool wide = true;
  for (const auto& terms : slots) {
    for (const Operand& operand : terms) wide = wide && has_wide_columns(operand, shape, span);
  }
  return wide;
}

// Calls call<type of arithmetic, columns of a tile>() as constants.
template <class Call>
void choose_columns(const Modulation& p, bool wide, Call call) {
  if (p.in_double) return call.template operator()<double, 1>();
  wide ? call.template operator()<float, 4>() : call.template operator()<float, 1>();
}

// A row of what modulates.
struct Slots {
  Row row[kSlots][kTerms];

  __device__ __forceinline__ Slots(const Operand (&slots)[kSlots][kTerms], const SampleShape& shape, int64_t at) {
    VISGEN_UNROLL
    for (int slot = 0; slot < kSlots; ++slot) {
      VISGEN_UNROLL
      for (int term = 0; term < kTerms; ++term) row[slot][term] = Row(slots[slot][term], shape, at);
    }
  }

  template <class Real, int span>
  __device__ __forceinline__ void load(const Modulation& p, int slot, Real otherwise, int64_t begin,
                                       Real (&out)[span]) const {
    const Operand(&terms)[kTerms] = p.slot[slot];
    if (!terms[0].data && !terms[1].data) return fill(otherwise, out);
    Real second[span];
    load_or_zero(terms[0], row[slot][0], begin, out);
    load_or_zero(terms[1], row[slot][1], begin, second);
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) out[i] += second[i];
  }
};

}  // namespace visgen
