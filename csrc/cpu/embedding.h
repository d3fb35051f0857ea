// Decoding as a CPU kernel sees it.
#pragma once

#include "../ops/quantize.h"

namespace visgen {

// Decoding, and the sums of embeddings that quantizing puts out.
struct Embedding : DecodeParameters {
  const uint8_t* broken = nullptr;  // [rows]: whose sum is NaN; may be absent
};

}  // namespace visgen
