// The family `codebook` on one instruction set, and the gradients of codebooks: sums of rows by their codes.
//
// In memory: every row is read once (and written once, where its residual goes on to the next depth), a code's
// embedding once for all its rows. Sums are in double, in the order of rows.
#include "../kernels.h"
#include "../sums_of_depth.h"
#include "rows.h"

namespace visgen::VISGEN_ISA {
namespace {

template <class Real>
void to_real(const RealRows& p, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    Real* out = static_cast<Real*>(p.out) + row * p.dimensions;
    const Real* x = real_row(p.x, p.dtype, row, p.dimensions, out);
    for (int64_t i = 0; x != out && i < p.dimensions; ++i) out[i] = x[i];
  }
}

template <class Real>
void write_sum(const ChunkSums& p, int64_t code, const double* sum, int64_t count) {
  Real* out = static_cast<Real*>(p.sums) + code * p.dimensions;
  for (int64_t i = 0; i < p.dimensions; ++i) out[i] = static_cast<Real>(out[i] + sum[i]);
  if (p.counts) static_cast<Real*>(p.counts)[code] += static_cast<Real>(count);
}

template <class Real, Summed summed>
class Chunk {
 public:
  Chunk(const ChunkSums& p, double* sum, Real* row) : p_(p), sum_(sum), row_(row) {}

  // Adds up rows order[begin, end), all of one code.
  void add_up(int64_t code, int64_t begin, int64_t end) {
    const int64_t dimensions = p_.dimensions;
    const Real* e = summed == Summed::rows ? nullptr : static_cast<const Real*>(p_.codebook) + code * dimensions;
    count_ = 0;
    for (int64_t i = 0; i < dimensions; ++i) sum_[i] = 0;
    for (int64_t at = begin; at < end; ++at) {
      const int64_t row = p_.order[at];
      const Real* r = real_row(p_.source, p_.dtype, row, dimensions, row_);
      Real* after = p_.target ? static_cast<Real*>(p_.target) + row * dimensions : nullptr;
      if (summed == Summed::rows) {
        for (int64_t i = 0; i < dimensions; ++i) sum_[i] += r[i];
      } else if (summed == Summed::before) {
        if (all_finite(r, dimensions)) {
          ++count_;
          for (int64_t i = 0; i < dimensions; ++i) sum_[i] += r[i];
        }
        if (after) {
          for (int64_t i = 0; i < dimensions; ++i) after[i] = r[i] - e[i];
        }
      } else {
        const double weight = p_.scale * static_cast<const Real*>(p_.weights)[row * p_.code_stride];
        for (int64_t i = 0; i < dimensions; ++i) {
          const Real difference = r[i] - e[i];
          sum_[i] += weight * difference;
          if (after) after[i] = difference;
        }
      }
    }
  }

  void keep_for_edge(int64_t edge, int64_t code) const {
    p_.edge_codes[edge] = code;
    p_.edge_counts[edge] = count_;
    for (int64_t i = 0; i < p_.dimensions; ++i) p_.edge_sums[edge * p_.dimensions + i] = sum_[i];
  }

  void write(int64_t code) const { write_sum<Real>(p_, code, sum_, count_); }

 private:
  const ChunkSums& p_;
  double* sum_;
  Real* row_;  // where a row of another type becomes real
  int64_t count_ = 0;
};

template <class Real, Summed summed>
void sum_chunks(const ChunkSums& p, int64_t first_chunk, int64_t last_chunk) {
  const Scratch sum(sizeof(double) * p.dimensions), row(sizeof(Real) * p.dimensions);
  Chunk<Real, summed> sums(p, sum.as<double>(), row.as<Real>());
  for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
    const int64_t begin = chunk * kRowsOfChunk;
    const int64_t end = begin + kRowsOfChunk < p.rows ? begin + kRowsOfChunk : p.rows;
    p.edge_codes[2 * chunk + 1] = -1;
    for (int64_t from = begin; from < end;) {
      const int64_t code = p.codes[p.order[from] * p.code_stride];
      int64_t to = from + 1;
      while (to < end && p.codes[p.order[to] * p.code_stride] == code) ++to;
      sums.add_up(code, from, to);
      if (from == begin) {
        sums.keep_for_edge(2 * chunk, code);
      } else if (to == end) {
        sums.keep_for_edge(2 * chunk + 1, code);
      } else {
        sums.write(code);
      }
      from = to;
    }
  }
}

template <class Real>
void sum_chunks(const ChunkSums& p, int64_t first_chunk, int64_t last_chunk) {
  switch (p.summed) {
    case Summed::rows:
      return sum_chunks<Real, Summed::rows>(p, first_chunk, last_chunk);
    case Summed::before:
      return sum_chunks<Real, Summed::before>(p, first_chunk, last_chunk);
    case Summed::weighted_after:
      return sum_chunks<Real, Summed::weighted_after>(p, first_chunk, last_chunk);
  }
}

// Adds up what chunks left at their edges, in their order: a code that several chunks share has neighbouring edges.
template <class Real>
void sum_edges(const EdgeSums& p, int64_t first, int64_t edges) {
  for (int64_t edge = first; edge < edges;) {
    const int64_t code = p.edge_codes[edge];
    double* sum = p.edge_sums + edge * p.dimensions;
    int64_t count = p.edge_counts[edge], next = edge + 1;
    for (; next < edges && (p.edge_codes[next] == code || p.edge_codes[next] < 0); ++next) {
      if (p.edge_codes[next] < 0) continue;
      const double* other = p.edge_sums + next * p.dimensions;
      for (int64_t i = 0; i < p.dimensions; ++i) sum[i] += other[i];
      count += p.edge_counts[next];
    }
    write_sum<Real>(p, code, sum, count);
    edge = next;
  }
}

}  // namespace

const Loops<RealRows, ChunkSums, EdgeSums> codebook_kernels = {
    {to_real<float>, to_real<double>}, {sum_chunks<float>, sum_chunks<double>}, {sum_edges<float>, sum_edges<double>}};

}  // namespace visgen::VISGEN_ISA
