// The family `quantize` on the CPU.
#include "../ops/quantize_call.h"

#include "code_sums.h"
#include "device.h"
#include "embedding.h"
#include "search/search_depth.h"

namespace visgen {
namespace {

struct Quantize {
  static void run(const QuantizeParameters& p, const Tensor& like) {
    const int64_t size = p.in_double ? 8 : 4, dimensions = p.codebooks.dimensions;
    Tensor residuals = empty_on(like, {p.depth > 1 ? p.rows : 0, dimensions}, real_type_of(p.in_double));
    std::vector<uint8_t> broken(p.rows);
    Search search{&p, p.in_double, 0, nullptr, residuals.mutable_data_ptr(), broken.data()};
    for (; search.depth < p.depth; ++search.depth) {
      search.codebook = static_cast<const char*>(p.codebooks.data) + search.depth * p.codebooks.stride * size;
      search_depth(search, like);
    }
    if (p.quantized) embed({p.rows, p.depth, p.codebooks, p.in_double, p.codes, p.quantized, p.dtype}, broken.data());
  }

  static void run(const QuantizeBackwardParameters& p, const Tensor&) {
    check_codes(p.codes, p.rows * p.depth, p.codebooks.codes);
    run_loop(p, p.rows, units_of_share(4 * p.depth * p.codebooks.dimensions));
  }

  static void run(const DecodeParameters& p, const Tensor&) {
    check_codes(p.codes, p.rows * p.depth, p.codebooks.codes);
    embed(p, nullptr);
  }

  static void run(const CodeSums& p, const Tensor& like) { sum_by_code(p, like); }

 private:
  static void embed(const DecodeParameters& p, const uint8_t* broken) {
    run_loop(Embedding{p, broken}, p.rows, units_of_share(p.depth * p.codebooks.dimensions));
  }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { QuantizeOperations<Quantize>::add_to(m); }

}  // namespace visgen
