// The family `quantize` on the CPU.
#include "../ops/quantize_call.h"

#include <algorithm>

#include "code_sums.h"
#include "device.h"
#include "embedding.h"
#include "search/search_depth.h"

namespace visgen {
namespace {

struct Quantize {
  // Some rows go through all depths before the next ones begin: their residuals stay in the threads' caches.
  static void run(const QuantizeParameters& p, const Tensor& like) {
    constexpr int64_t kRowsOfThread = 4096;  // so many that packing the codebooks again for them costs little
    const int64_t most = p.depth > 1 ? kRowsOfThread * torch::stable::get_num_threads() : p.rows;
    const int64_t together = std::min(p.rows, most);
    Tensor residuals = empty_on(like, {p.depth > 1 ? together : 0, p.codebooks.dimensions}, real_type_of(p.in_double));
    std::vector<uint8_t> broken(p.rows);
    for (int64_t first = 0; first < p.rows; first += together) {
      search(rows_of(p, first, std::min(together, p.rows - first)), residuals, broken.data() + first, like);
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
  static int64_t size_of_real(const QuantizeParameters& p) { return p.in_double ? 8 : 4; }

  static QuantizeParameters rows_of(QuantizeParameters p, int64_t first, int64_t rows) {
    const int64_t real = size_of_real(p) * first * p.depth;
    p.rows = rows;
    p.x = static_cast<const char*>(p.x) + size_of(p.dtype) * first * p.codebooks.dimensions;
    if (p.active_depths) p.active_depths += first;
    p.codes += first * p.depth;
    if (p.commitment) p.commitment = static_cast<char*>(p.commitment) + real;
    if (p.codebook_error) p.codebook_error = static_cast<char*>(p.codebook_error) + real;
    return p;
  }

  static void search(const QuantizeParameters& p, Tensor& residuals, uint8_t* broken, const Tensor& like) {
    Search search{&p, p.in_double, 0, nullptr, residuals.mutable_data_ptr(), broken};
    for (; search.depth < p.depth; ++search.depth) {
      search.codebook =
          static_cast<const char*>(p.codebooks.data) + search.depth * p.codebooks.stride * size_of_real(p);
      search_depth(search, like);
    }
  }

  static void embed(const DecodeParameters& p, const uint8_t* broken) {
    run_loop(Embedding{p, broken}, p.rows, units_of_share(p.depth * p.codebooks.dimensions));
  }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { QuantizeOperations<Quantize>::add_to(m); }

}  // namespace visgen
