// Vectors are sorted by code, and the sorted row of them is cut into units of equal length: a warp adds up what lies in
// a unit, code after code, in double. Codes that lie within one unit are done with that; of the others each unit keeps
// its part, and a second kernel adds up the parts. Neither the cut nor any order depends on anything but sizes and
// codes, and a code that every vector has costs no more than one for each.
//
// A vector's residual is made again from its row and the embeddings before it: D elements of the row, and up to q + 1
// times as many of codebooks that mostly lie in cache. For N rows and Q depths that is N·Q rows and N·Q·(Q ± 1)/2
// embeddings, an addition an element in the type of x or codebooks and one in double for each vector; N rows and N·Q
// embeddings more where residuals are first looked at for NaN. Written are the sums, once. Counted: no GPU has measured
// what share of the memory's speed that reaches. Units are longer where there are many depths: their parts take 4·N·D
// bytes at most, beside the sort (sort.cu).
#include "code_sums.h"

#include <limits>

#include "embedding.cuh"
#include "sort.h"

namespace visgen {
namespace {

constexpr int64_t kUnit = 64, kDepthsOfUnit = 16;  // vectors of a unit, times as many if depths are more than these
constexpr int kTile = kWarpSize * kSpan;           // dimensions of a warp

struct Sorted {
  const uint32_t *keys, *places;  // of vectors depth · rows + row, by (book, code)
  int64_t count;
  uint32_t none;   // the key of vectors without a code; after all others
  int64_t unit;    // vectors
  int64_t stride;  // of parts: dimensions, in whole accesses
  double* parts;   // [units, 2, stride]: of a unit's first code and of its last, where they go on outside
};

// The first depth at which the row's residual has NaN or infinity.
template <class Real, bool wide>
__device__ __forceinline__ int64_t first_infinite(const CodeSums& p, int64_t row) {
  int64_t first = p.depth;
  for_each_tile(p.codebooks.dimensions, [&](int64_t begin) {
    Real r[kSpan], e[kSpan];
    load_row(wide, p.x, p.dtype, p.codebooks.dimensions, row, begin, r);
    for (int64_t q = 0; q < first; ++q) {
      for (int i = 0; i < kSpan; ++i) first = is_finite(r[i]) ? first : q;
      if (first == q) return;
      load_embedding(wide, p.codebooks, q, p.codes[row * p.depth + q], begin, e);
      for (int i = 0; i < kSpan; ++i) r[i] -= e[i];
    }
  });
  return warp_min(first);
}

// A warp a row.
template <class Real, bool wide>
__global__ void __launch_bounds__(kBlockThreads) make_keys(CodeSums p, uint32_t none, uint32_t* keys) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + warp_index();
  if (row >= p.rows) return;
  const int64_t depth = p.summed == Summed::before ? first_infinite<Real, wide>(p, row) : p.depth;
  for (int64_t q = lane_index(); q < p.depth; q += kWarpSize) {
    const int64_t code = p.codes[row * p.depth + q], book = p.shared ? 0 : q;
    const bool counted = q < depth && code >= 0 && code < p.codebooks.codes;
    keys[q * p.rows + row] = counted ? static_cast<uint32_t>(book * p.codebooks.codes + code) : none;
  }
}

// Adds a vector's tile, weighted.
template <class Real, bool wide>
__device__ __forceinline__ void add_vector(const CodeSums& p, uint32_t place, int64_t begin, double (&sums)[kSpan]) {
  const int64_t q = place / p.rows, row = place % p.rows;
  Real r[kSpan], e[kSpan];
  load_row(wide, p.x, p.dtype, p.codebooks.dimensions, row, begin, r);
  const int64_t subtracted = p.summed == Summed::rows ? 0 : q + (p.summed == Summed::weighted_after);
  for (int64_t j = 0; j < subtracted; ++j) {
    load_embedding(wide, p.codebooks, j, p.codes[row * p.depth + j], begin, e);
    for (int i = 0; i < kSpan; ++i) r[i] -= e[i];
  }
  const double weight = p.weights ? p.scale * static_cast<const Real*>(p.weights)[row * p.depth + q] : 1.0;
  for (int i = 0; i < kSpan; ++i) sums[i] += weight * r[i];
}

template <class Real, bool wide>
__device__ __forceinline__ void write_sums(const CodeSums& p, uint32_t key, int64_t begin,
                                           const double (&sums)[kSpan]) {
  Real rounded[kSpan];
  for (int i = 0; i < kSpan; ++i) rounded[i] = static_cast<Real>(sums[i]);
  store_row_as<Real>(wide, p.sums, p.codebooks.dimensions, key, begin, rounded);
}

__device__ __forceinline__ void store_part(double* part, const double (&sums)[kSpan]) {
  for (int i = 0; i < kSpan; ++i) part[i] = sums[i];
}

// A warp a unit and a tile of dimensions.
template <class Real, bool wide>
__global__ void __launch_bounds__(kBlockThreads) sum_units(CodeSums p, Sorted sorted) {
  const int64_t D = p.codebooks.dimensions, unit = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + warp_index();
  const int64_t first = unit * sorted.unit, next = first + sorted.unit;
  const int64_t last = next < sorted.count ? next : sorted.count;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * kTile + lane_index() * kSpan;
  if (first >= sorted.count) return;
  const bool continued = first > 0 && sorted.keys[first - 1] == sorted.keys[first];
  double sums[kSpan] = {0, 0, 0, 0};
  int64_t run = first;  // where the present code begins
  for (int64_t i = first; i < last; ++i) {
    const uint32_t key = sorted.keys[i];
    if (key == sorted.none) return;
    if (begin < D) add_vector<Real, wide>(p, sorted.places[i], begin, sums);
    const bool ends = i + 1 == sorted.count || sorted.keys[i + 1] != key;
    if (!ends && i + 1 < last) continue;
    const bool is_part = !ends || (run == first && continued);
    if (begin < D) {
      double* part = sorted.parts + (2 * unit + (run == first && continued ? 0 : 1)) * sorted.stride + begin;
      is_part ? store_part(part, sums) : write_sums<Real, wide>(p, key, begin, sums);
    }
    if (!is_part && p.counts && blockIdx.y == 0 && lane_index() == 0) {
      static_cast<Real*>(p.counts)[key] = static_cast<Real>(i + 1 - run);
    }
    run = i + 1;
    for (int j = 0; j < kSpan; ++j) sums[j] = 0;
  }
}

// A warp a unit and a tile of dimensions: if the unit's last code begins in it and goes on, adds up the code's parts.
template <class Real, bool wide>
__global__ void __launch_bounds__(kBlockThreads) sum_parts(CodeSums p, Sorted sorted) {
  const int64_t D = p.codebooks.dimensions, unit = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + warp_index();
  const int64_t first = unit * sorted.unit;
  int64_t end = first + sorted.unit;  // of what has been added up
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * kTile + lane_index() * kSpan;
  if (end >= sorted.count) return;
  const uint32_t key = sorted.keys[end - 1];
  const bool begins_here = first == 0 || sorted.keys[first - 1] != key;
  if (key == sorted.none || sorted.keys[end] != key || !begins_here) return;
  double sums[kSpan] = {0, 0, 0, 0};
  const auto add_part = [&](int64_t index) {
    for (int i = 0; begin < D && i < kSpan; ++i) sums[i] += sorted.parts[index * sorted.stride + begin + i];
  };
  add_part(2 * unit + 1);
  for (; end < sorted.count && sorted.keys[end] == key; end += sorted.unit) add_part(2 * (end / sorted.unit));
  if (begin < D) write_sums<Real, wide>(p, key, begin, sums);
  if (!p.counts || blockIdx.y != 0 || lane_index() != 0) return;
  int64_t from = end - sorted.unit, to = end < sorted.count ? end : sorted.count;  // the code's last lies in between
  while (to - from > 1) {
    const int64_t middle = from + (to - from) / 2;
    (sorted.keys[middle] == key ? from : to) = middle;
  }
  int64_t run = first + sorted.unit - 1;
  while (run > first && sorted.keys[run - 1] == key) --run;
  static_cast<Real*>(p.counts)[key] = static_cast<Real>(to - run);
}

template <class Real, bool wide>
void run(const CodeSums& p, const Tensor& like, Stream stream) {
  const int64_t D = p.codebooks.dimensions, count = p.rows * p.depth;
  const int64_t none = (p.shared ? 1 : p.depth) * p.codebooks.codes;
  check(none <= std::numeric_limits<uint32_t>::max() && count <= std::numeric_limits<uint32_t>::max(),
        "codes must be fewer than 2^32, and so must be those of all codebooks together");
  const Tensor keys = empty_on(like, {count}, ScalarType::Int);
  uint32_t* key_data = static_cast<uint32_t*>(keys.mutable_data_ptr());
  launch<make_keys<Real, wide>>(warp_grid(p.rows), stream, p, static_cast<uint32_t>(none), key_data);
  const SortedKeys by_code = sort_keys(key_data, count, static_cast<uint32_t>(none), like);
  const int64_t unit = kUnit * ((p.depth + kDepthsOfUnit - 1) / kDepthsOfUnit), units = (count + unit - 1) / unit;
  const int64_t tiles = D > 0 ? (D + kTile - 1) / kTile : 1, stride = (D + kSpan - 1) / kSpan * kSpan;
  const Tensor parts = empty_on(like, {units * 2 * stride}, ScalarType::Double);
  const Sorted sorted{by_code.keys,
                      by_code.places,
                      count,
                      static_cast<uint32_t>(none),
                      unit,
                      stride,
                      static_cast<double*>(parts.mutable_data_ptr())};
  LaunchShape shape = warp_grid(units);
  shape.grid.y = static_cast<unsigned>(tiles);
  launch<sum_units<Real, wide>>(shape, stream, p, sorted);
  launch<sum_parts<Real, wide>>(shape, stream, p, sorted);
}

}  // namespace

void sum_by_code(const CodeSums& p, const Tensor& like) {
  if (p.rows * p.depth == 0) return;
  const OnDevice on(like.get_device_index());
  const int64_t D = p.codebooks.dimensions;
  const DType real = real_type(p.in_double);
  const bool wide =
      has_wide_rows(p.x, p.dtype, D) && has_wide_rows(p.codebooks.data, real, D) && has_wide_rows(p.sums, real, D);
  choose_row(p.in_double, wide, [&]<class Real, bool is_wide>() { run<Real, is_wide>(p, like, on.stream); });
}

}  // namespace visgen
