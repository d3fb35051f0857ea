// Reads each codebook twice (the second time from cache) and writes half its size; and before that a sample of it, for
// what its codes have in common. An element takes 6 bytes of memory and 14 operations in double. Counted: no GPU has
// measured what share of either ceiling that reaches.
#include "quantize_prepare.cuh"

#include "../common/math.h"
#include "quantize_row.cuh"

namespace visgen {
namespace {

constexpr int64_t kSample = 512;  // codes
constexpr int kMeans = kRowsPerBlock;

// μ: for each dimension the median of kMeans means, each of its part of a sample, so that a few codes far away from the
// others do not move it. A lane a dimension, a warp a mean.
__global__ void __launch_bounds__(kBlockThreads) find_center(Codebooks books, Metric metric, PreparedCodes prepared) {
  VISGEN_SHARED(float[kWarpSize], means, kMeans);
  const int64_t d = static_cast<int64_t>(blockIdx.x) * kWarpSize + lane_index();
  const int64_t sample = books.codes < kSample ? books.codes : kSample;
  const float* book = static_cast<const float*>(books.data) + static_cast<int64_t>(blockIdx.y) * books.stride;
  double sum = 0;
  int count = 0;
  if (d < books.dimensions && metric != Metric::cosine) {
#pragma unroll 4
    for (int64_t i = warp_index(); i < sample; i += kMeans) {
      const float e = book[i * books.codes / sample * books.dimensions + d];
      sum += is_finite(e) ? e : 0.0f;
      count += is_finite(e);
    }
  }
  means[warp_index()][lane_index()] = static_cast<float>(sum / (count > 0 ? count : 1));
  sync_block();
  if (warp_index() != 0) return;
  const int used = static_cast<int>(sample < kMeans ? sample : kMeans);
  float median = 0;
  for (int i = 0; i < used; ++i) {
    const float mean = means[i][lane_index()];
    int before = 0;
    for (int j = 0; j < used; ++j) {
      const float other = means[j][lane_index()];
      before += other < mean || (other == mean && j < i);
    }
    if (before == used / 2) median = mean;
  }
  prepared.center[blockIdx.y * prepared.chunks * kChunk + d] = median;
}

// A warp a code, a block a group.
template <bool wide>
__global__ void __launch_bounds__(kBlockThreads) prepare(Codebooks books, Metric metric, PreparedCodes prepared) {
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
      load_embedding(wide, books, book, code, begin, e);
      terms.add(e);
    });
  }
  const bool usable = all_lanes(terms.finite) && exists;
  const double length = sqrt(warp_sum(terms.square));
  double square = 0, square_error = 0, half_square = 0, center_square = 0;
  for_each_tile(prepared.chunks * kChunk, [&](int64_t begin) {
    float e[kSpan] = {0, 0, 0, 0};
    if (usable && begin < D) load_embedding(wide, books, book, code, begin, e);
    const auto center = load_vec<kSpan>(prepared.center + book * prepared.chunks * kChunk + begin);
    Vec<uint16_t, kSpan> rounded;
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      const double mu = usable ? center[i] : 0.0;
      const double value = metric != Metric::cosine ? e[i] - mu : length > 0 ? e[i] / length : 0.0;
      rounded[i] = cuda::float_to_bfloat16(static_cast<float>(value));
      const double error = value - cuda::bfloat16_to_float(rounded[i]);
      square += value * value;
      square_error += error * error;
      half_square += 0.5 * value * (e[i] + mu);
      center_square += mu * mu;
    }
    uint16_t* chunk = prepared.codes + (tile * prepared.chunks + begin / kChunk) * kTileCodes * kChunk;
    store_vec(chunk + place_in_chunk(in_tile, static_cast<int>(begin % kChunk)), rounded);
  });
  square = warp_sum(square);
  square_error = warp_sum(square_error);
  half_square = warp_sum(half_square);
  center_square = warp_sum(center_square);
  if (lane_index() == 0) {
    CodeTerm term{INFINITY, 0.0f};
    worst[warp_index()] = {0.0f, 0.0f};
    if (usable) {
      const bool is_zero_direction = metric == Metric::cosine && length == 0;
      const float norm = static_cast<float>(sqrt(square));
      term.norm = is_zero_direction ? 0.0f : norm > kSmallestNorm ? norm : kSmallestNorm;
      term.half_square = metric == Metric::l2 ? static_cast<float>(half_square) : 0.0f;
      const double error = term.norm > 0 ? sqrt(square_error) / term.norm : 0.0;
      worst[warp_index()] = {static_cast<float>(error), static_cast<float>(term.norm + 2 * sqrt(center_square))};
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
  const Tensor center = empty_on(like, {books * prepared.chunks * kChunk}, ScalarType::Float);
  prepared.codes = static_cast<uint16_t*>(codes.mutable_data_ptr());
  prepared.terms = static_cast<CodeTerm*>(terms.mutable_data_ptr());
  prepared.worst = static_cast<Worst*>(worst.mutable_data_ptr());
  prepared.center = static_cast<float*>(center.mutable_data_ptr());
  const LaunchShape shape{dim3(static_cast<unsigned>(prepared.groups), static_cast<unsigned>(books)),
                          dim3(kBlockThreads)};
  const Stream stream = current_stream(like.get_device_index());
  static_assert(kChunk == kWarpSize);
  launch<find_center>({dim3(static_cast<unsigned>(prepared.chunks), static_cast<unsigned>(books)), dim3(kBlockThreads)},
                      stream, p.codebooks, p.metric, prepared);
  if (has_wide_rows(p.codebooks.data, DType::float32, p.codebooks.dimensions)) {
    launch<prepare<true>>(shape, stream, p.codebooks, p.metric, prepared);
  } else {
    launch<prepare<false>>(shape, stream, p.codebooks, p.metric, prepared);
  }
  return {codes, terms, worst, center};
}

}  // namespace visgen
