#include "code_sums.h"

#include "device.h"
#include "sums_of_depth.h"

namespace visgen {
namespace {

// The numbers of the rows that have a code at one depth, by code, then by number.
class RowsByCode {
 public:
  explicit RowsByCode(int64_t rows) : order_(rows) {
    check(rows < (int64_t{1} << 31), "codes must have less than 2^31 rows");
  }

  void sort(const int64_t* codes, int64_t stride, int64_t rows, int64_t codes_per_book) {
    next_.assign(codes_per_book + 1, 0);
    for (int64_t row = 0; row < rows; ++row) ++next_[codes[row * stride] + 1];  // place 0: rows without a code
    next_[0] = 0;
    for (int64_t k = 1; k <= codes_per_book; ++k) next_[k] += next_[k - 1];
    count_ = next_[codes_per_book];
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t code = codes[row * stride];
      if (code >= 0) order_[next_[code]++] = static_cast<int32_t>(row);
    }
  }

  const int32_t* order() const { return order_.data(); }
  int64_t count() const { return count_; }

 private:
  std::vector<int32_t> order_, next_;
  int64_t count_ = 0;
};

// Runs `sums` over the rows in order: every chunk, then their edges.
void add_up(EdgeSums& sums, const RowsByCode& rows) {
  const int64_t chunks = (rows.count() + kRowsOfChunk - 1) / kRowsOfChunk;
  std::vector<double> edge_sums(2 * chunks * sums.dimensions);
  std::vector<int64_t> edge_codes(2 * chunks), edge_counts(2 * chunks);
  sums.rows = rows.count();
  sums.order = rows.order();
  sums.edge_sums = edge_sums.data();
  sums.edge_codes = edge_codes.data();
  sums.edge_counts = edge_counts.data();
  run_loop<ChunkSums>(sums, chunks, 1);
  const int64_t edges = 2 * chunks;
  run_loop(sums, edges, edges);
}

}  // namespace

void check_codes(const int64_t* codes, int64_t count, int64_t codes_per_book) {
  bool inside = true;
  for (int64_t i = 0; i < count; ++i) inside &= codes[i] >= -1 && codes[i] < codes_per_book;
  check(inside, "codes must lie in [-1, ", codes_per_book, ")");
}

void sum_by_code(const CodeSums& call, const Tensor& like) {
  const int64_t dimensions = call.codebooks.dimensions, codes = call.codebooks.codes, size = call.in_double ? 8 : 4;
  check_codes(call.codes, call.rows * call.depth, codes);
  const auto at = [&](const void* base, int64_t element) {
    return base ? static_cast<const char*>(base) + element * size : nullptr;
  };
  EdgeSums sums;
  sums.summed = call.summed;
  sums.dimensions = dimensions;
  sums.in_double = call.in_double;
  sums.code_stride = call.depth;
  sums.source = call.x;
  sums.dtype = call.dtype;
  sums.scale = call.scale;
  const bool has_residuals = call.summed != Summed::rows && call.depth > 1;
  Tensor residuals = empty_on(like, {has_residuals ? call.rows : 0, dimensions}, real_type_of(call.in_double));
  if (has_residuals) {
    run_loop(RealRows{dimensions, call.in_double, call.x, call.dtype, residuals.mutable_data_ptr()}, call.rows,
             units_of_share(dimensions));
    sums.source = sums.target = residuals.mutable_data_ptr();
    sums.dtype = call.in_double ? DType::float64 : DType::float32;
  }
  RowsByCode order(call.rows);
  for (int64_t q = 0; q < call.depth; ++q) {
    const int64_t book = call.shared ? 0 : q;
    order.sort(call.codes + q, call.depth, call.rows, codes);
    sums.codes = call.codes + q;
    sums.codebook = at(call.codebooks.data, q * call.codebooks.stride);
    sums.weights = at(call.weights, q);
    if (q + 1 == call.depth) sums.target = nullptr;
    sums.sums = const_cast<char*>(at(call.sums, book * codes * dimensions));
    sums.counts = const_cast<char*>(at(call.counts, book * codes));
    add_up(sums, order);
  }
}

}  // namespace visgen
