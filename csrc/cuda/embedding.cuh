// Rows of codebooks.
#pragma once

#include <cmath>

#include "../ops/quantize.h"
#include "rows.cuh"

namespace visgen {

// The embedding of a code at a depth: zeros for −1, NaN for a code that the codebook does not have.
template <class Real>
__device__ __forceinline__ void load_embedding(bool wide, const Codebooks& books, int64_t depth, int64_t code,
                                               int64_t begin, Real (&out)[kSpan]) {
  if (code >= 0 && code < books.codes) {
    const Real* book = static_cast<const Real*>(books.data) + depth * books.stride;
    return load_row_as<Real>(wide, book, books.dimensions, code, begin, out);
  }
#pragma unroll
  for (int i = 0; i < kSpan; ++i) out[i] = code == -1 ? Real(0) : Real(NAN);
}

}  // namespace visgen
