// The family `quantize` on the CPU.
#include "../ops/quantize_call.h"

#include "code_sums.h"
#include "parallel.h"
#include "search/search_depth.h"

namespace visgen {
namespace {

void embed(const Embedding& p) {
  const QuantizeKernels& table = kernels().quantize;
  const auto kernel = p.in_double ? table.embed_double : table.embed_float;
  parallel_for(0, p.rows, rows_of_share(p.depth * p.codebooks.dimensions),
               [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
}

struct Cpu {
  static void search(const QuantizeParameters& p, const Tensor& like) {
    const int64_t size = p.in_double ? 8 : 4, dimensions = p.codebooks.dimensions;
    const ScalarType real = real_type_of(p.in_double);
    Tensor residuals = empty_on(like, {p.depth > 1 ? p.rows : 0, dimensions}, real);
    std::vector<uint8_t> broken(p.rows);
    Search search{&p, 0, nullptr, residuals.mutable_data_ptr(), broken.data()};
    for (; search.depth < p.depth; ++search.depth) {
      search.codebook = static_cast<const char*>(p.codebooks.data) + search.depth * p.codebooks.stride * size;
      search_depth(search, like);
    }
    if (!p.quantized) return;
    embed({p.rows, p.depth, p.codebooks, p.in_double, p.codes, broken.data(), p.quantized, p.dtype});
  }

  static void backward(const QuantizeBackwardParameters& p, const Tensor& x) {
    check_codes(p.codes, p.rows * p.depth, p.codebooks.codes);
    if (p.grad_x) {
      const QuantizeKernels& table = kernels().quantize;
      parallel_for(0, p.rows, rows_of_share(4 * p.depth * p.codebooks.dimensions), [&](int64_t begin, int64_t end) {
        (p.in_double ? table.backward_double : table.backward_float)(p, begin, end);
      });
    }
    if (p.grad_codebooks && p.grad_codebook_error && p.depth > 0) grad_codebooks(p, x);
  }

  static void decode(const DecodeParameters& p, const Tensor&) {
    check_codes(p.codes, p.rows * p.depth, p.codebooks.codes);
    const DType real = p.in_double ? DType::float64 : DType::float32;
    embed({p.rows, p.depth, p.codebooks, p.in_double, p.codes, nullptr, p.out, real});
  }

  static void sum_by_code(const DecodeBackwardParameters& p, const Tensor&) {
    check_codes(p.codes, p.rows * p.depth, p.codes_per_book);
    CodeSums sums;
    sums.summed = Summed::rows;
    sums.source = p.grad;
    const int64_t stride = p.shared ? 0 : p.codes_per_book * p.dimensions;
    add_up_depths(sums, p.rows, p.depth, p.codes, {nullptr, p.codes_per_book, p.dimensions, 0}, p.in_double,
                  p.grad_codebooks, stride);
  }

 private:
  static void grad_codebooks(const QuantizeBackwardParameters& p, const Tensor& x) {
    Tensor residuals = first_residuals(x, p.depth);
    CodeSums sums;
    sums.summed = Summed::weighted_after;
    sums.source = residuals.const_data_ptr();
    sums.target = p.depth > 1 ? residuals.mutable_data_ptr() : nullptr;
    sums.weights = p.grad_codebook_error;
    add_up_depths(sums, p.rows, p.depth, p.codes, p.codebooks, p.in_double, p.grad_codebooks, p.codebooks.stride);
  }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { QuantizeOperations<Cpu>::add_to(m); }

}  // namespace visgen
