// Reads each codebook twice (the second time from cache) and writes half its size.
#include "quantize_prepare.cuh"

#include "../common/math.h"
#include "quantize_row.cuh"

namespace visgen {
namespace {

// A warp a code, a block a group.
template <bool wide>
__global__ void __launch_bounds__(kRowThreads) prepare(Codebooks books, Metric metric, PreparedCodes prepared) {
  VISGEN_SHARED(Worst, worst, kRowsPerBlock);
  const int64_t D = books.dimensions, book = blockIdx.y;
  const int64_t code = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + warp_index();
  const int in_tile = static_cast<int>(code % kTileCodes);
  const int64_t tile = book * prepared.tiles + code / kTileCodes;
  const bool exists = code < books.codes;
  CodeTerms terms;
  if (exists) {
    for_each_tile(D, [&](int64_t begin) {
      float e[kSpan];
      load_embedding<wide>(books, book, code, begin, e);
      terms.add(e);
    });
  }
  const bool usable = all_lanes(terms.finite) && exists;
  const double length = sqrt(warp_sum(terms.square));
  double square_error = 0;
  for_each_tile(prepared.chunks * kChunk, [&](int64_t begin) {
    float e[kSpan] = {0, 0, 0, 0};
    if (usable && begin < D) load_embedding<wide>(books, book, code, begin, e);
    Vec<uint16_t, kSpan> rounded;
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      const double value = metric == Metric::cosine && length > 0 ? e[i] / length : e[i];
      rounded[i] = cuda::float_to_bfloat16(static_cast<float>(value));
      const double error = value - cuda::bfloat16_to_float(rounded[i]);
      square_error += error * error;
    }
    uint16_t* chunk = prepared.codes + (tile * prepared.chunks + begin / kChunk) * kTileCodes * kChunk;
    store_vec(chunk + place_in_chunk(in_tile, static_cast<int>(begin % kChunk)), rounded);
  });
  square_error = warp_sum(square_error);
  if (lane_index() == 0) {
    CodeTerm term{INFINITY, 0.0f};
    worst[warp_index()] = {0.0f, 0.0f};
    if (usable) {
      const double norm = metric != Metric::cosine ? length : length > 0 ? 1.0 : 0.0;
      term.norm = metric == Metric::cosine || norm > kSmallestNorm ? static_cast<float>(norm) : kSmallestNorm;
      term.half_square = metric == Metric::l2 ? static_cast<float>(0.5 * length * length) : 0.0f;
      const double error = term.norm > 0 ? sqrt(square_error) / term.norm : 0.0;
      worst[warp_index()] = {static_cast<float>(error), term.norm};
    }
    prepared.terms[tile * kTileCodes + in_tile] = term;
  }
  sync_block();
  if (thread_in_block() == 0) {
    Worst all = worst[0];
    for (int i = 1; i < kRowsPerBlock; ++i) all = Larger()(all, worst[i]);
    prepared.worst[book * prepared.groups + blockIdx.x] = all;
  }
}

}  // namespace

std::vector<Tensor> prepare_codes(const QuantizeParameters& p, const Tensor& like, PreparedCodes& prepared) {
  const int64_t books = p.codebooks.stride == 0 ? 1 : p.depth;
  prepared.shared = p.codebooks.stride == 0;
  prepared.tiles = (p.codebooks.codes + kTileCodes - 1) / kTileCodes;
  prepared.chunks = (p.codebooks.dimensions + kChunk - 1) / kChunk;
  prepared.groups = prepared.tiles * (kTileCodes / kRowsPerBlock);
  const Tensor codes =
      empty_on(like, {books * prepared.tiles * prepared.chunks * kTileCodes * kChunk}, ScalarType::Short);
  const Tensor terms = empty_on(like, {books * prepared.tiles * kTileCodes * 2}, ScalarType::Float);
  const Tensor worst = empty_on(like, {books * prepared.groups * 2}, ScalarType::Float);
  prepared.codes = static_cast<uint16_t*>(codes.mutable_data_ptr());
  prepared.terms = static_cast<CodeTerm*>(terms.mutable_data_ptr());
  prepared.worst = static_cast<Worst*>(worst.mutable_data_ptr());
  const LaunchShape shape{dim3(static_cast<unsigned>(prepared.groups), static_cast<unsigned>(books)),
                          dim3(kRowThreads)};
  const Stream stream = current_stream(like.get_device_index());
  if (has_wide_rows(p.codebooks.data, DType::float32, p.codebooks.dimensions)) {
    launch<prepare<true>>(shape, stream, p.codebooks, p.metric, prepared);
  } else {
    launch<prepare<false>>(shape, stream, p.codebooks, p.metric, prepared);
  }
  return {codes, terms, worst};
}

}  // namespace visgen
