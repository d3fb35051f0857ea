// Codebooks as the tensor cores read them: bfloat16, in the order in which tiles are consumed, with what the filter's
// bound needs to know of each code.
//
// A tile is kTileCodes codes, a chunk of it kChunk of their dimensions: 16 KB, copied to shared memory as they lie. In
// a chunk a code has 64 bytes, four pieces of 16; piece j is stored in place j ^ (code / 2 % 4), so that the eight
// codes that a load of matrices reads together lie in different banks. Missing codes, and codes with NaN or infinity,
// are zeros that no score can reach.
#pragma once

#include "../ops/quantize.h"
#include "../ops/tensors.h"
#include "launch.cuh"

namespace visgen {

constexpr int kTileCodes = 256, kChunk = 32, kPiece = 8;  // kPiece elements are 16 bytes

// The codes are prepared without what they have in common: c − μ, μ near their mean (for the cosine c/‖c‖, and μ = 0).
// That takes the same number from every score of a row, and leaves smaller numbers to round.
struct CodeTerm {
  float half_square;  // ½‖c‖² − ½‖μ‖² for l2, else 0; +infinity where the code cannot be chosen
  float norm;         // ‖c − μ‖, the unit of its bound, at least kSmallestNorm; 0 where c is rounded without an error
};

// The largest of some codes: the error of c − μ in bfloat16 over its norm, and norm + 2‖μ‖.
struct Worst {
  float error, norm;
};

struct Larger {
  __device__ __forceinline__ Worst operator()(const Worst& a, const Worst& b) const {
    return {a.error < b.error ? b.error : a.error, a.norm < b.norm ? b.norm : a.norm};
  }
};

constexpr float kSmallestNorm = 0x1p-80f, kLargestNorm = 0x1p60f;

struct PreparedCodes {
  uint16_t* codes = nullptr;  // [books, tiles, chunks, kTileCodes, kChunk]
  CodeTerm* terms = nullptr;  // [books, tiles, kTileCodes]
  Worst* worst = nullptr;     // [books, groups], of kRowsPerBlock codes each
  float* center = nullptr;    // [books, chunks · kChunk]: μ
  int64_t tiles = 0, chunks = 0, groups = 0;
  bool shared = false;  // one book for all depths

  __host__ __device__ __forceinline__ int64_t book(int64_t depth) const { return shared ? 0 : depth; }
};

// Where dimension d of a code lies in its chunk.
__host__ __device__ __forceinline__ int place_in_chunk(int code, int d) {
  return code * kChunk + ((d / kPiece) ^ (code / 2 % 4)) * kPiece + d % kPiece;
}

// Fills `prepared`, whose memory lives as long as the tensors returned.
std::vector<Tensor> prepare_codes(const QuantizeParameters& p, const Tensor& like, PreparedCodes& prepared);

}  // namespace visgen
