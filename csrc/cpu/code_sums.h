// Sums of rows by their codes on torch's threads, one depth after the other.
#pragma once

#include <vector>

#include "../ops/tensors.h"
#include "kernels.h"
#include "parallel.h"
#include "search/search.h"

namespace visgen {

inline void check_codes(const int64_t* codes, int64_t count, int64_t codes_per_book) {
  bool inside = true;
  for (int64_t i = 0; i < count; ++i) inside &= codes[i] >= -1 && codes[i] < codes_per_book;
  STD_TORCH_CHECK(inside, "codes must lie in [-1, ", codes_per_book, ")");
}

// The numbers of the rows that have a code at one depth, by code, then by number.
class RowsByCode {
 public:
  explicit RowsByCode(int64_t rows) : order_(rows) {
    STD_TORCH_CHECK(rows < (int64_t{1} << 31), "codes must have less than 2^31 rows");
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
inline void add_up_by_code(CodeSums& sums, const RowsByCode& rows) {
  const int64_t chunks = (rows.count() + kRowsOfChunk - 1) / kRowsOfChunk;
  std::vector<double> edge_sums(2 * chunks * sums.dimensions);
  std::vector<int64_t> edge_codes(2 * chunks), edge_counts(2 * chunks);
  sums.rows = rows.count();
  sums.order = rows.order();
  sums.edge_sums = edge_sums.data();
  sums.edge_codes = edge_codes.data();
  sums.edge_counts = edge_counts.data();
  const CodebookKernels& table = kernels().codebook;
  parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    (sums.in_double ? table.sum_chunks_double : table.sum_chunks_float)(sums, begin, end);
  });
  (sums.in_double ? table.sum_edges_double : table.sum_edges_float)(sums);
}

// The same at every depth. `sums` says what is added up; results go to `out`, `stride` elements from depth to depth.
inline void add_up_depths(CodeSums sums, int64_t rows, int64_t depth, const int64_t* codes, const Codebooks& codebooks,
                          bool in_double, void* out, int64_t stride) {
  const int64_t size = in_double ? 8 : 4;
  const auto at = [&](const void* base, int64_t element) {
    return base ? static_cast<const char*>(base) + element * size : nullptr;
  };
  const void *weights = sums.weights, *counts = sums.counts;
  void* target = sums.target;
  RowsByCode order(rows);
  sums.dimensions = codebooks.dimensions;
  sums.in_double = in_double;
  sums.code_stride = depth;
  for (int64_t q = 0; q < depth; ++q) {
    order.sort(codes + q, depth, rows, codebooks.codes);
    sums.codes = codes + q;
    sums.codebook = at(codebooks.data, q * codebooks.stride);
    sums.weights = at(weights, q);
    sums.target = q + 1 < depth ? target : nullptr;
    sums.sums = const_cast<char*>(at(out, q * stride));
    sums.counts = const_cast<char*>(at(counts, q * codebooks.codes));
    add_up_by_code(sums, order);
  }
}

// x in real, for residuals to begin with. Where there is only one depth nobody writes to it.
inline Tensor first_residuals(const Tensor& x, int64_t depth) {
  return torch::stable::to(x, real_of(x), {}, {}, {}, false, depth > 1);
}

}  // namespace visgen
