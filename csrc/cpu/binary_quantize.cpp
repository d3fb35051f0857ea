// The family `binary_quantize` on the CPU.
#include "../ops/binary_quantize_call.h"

#include "device.h"

namespace visgen {
namespace {

// From the units' sums of probabilities to −ln of their mean and to the entropy, which is added up chunk by chunk: the
// order depends on sizes alone.
template <class Real>
void add_entropies(const BinaryParameters& p) {
  constexpr double kSmallest = sizeof(Real) == 4 ? 0x1p-126 : 0x1p-1022;
  const int64_t entries = p.entries(), units = p.partition.units(), chunks = (entries + kChunk - 1) / kChunk;
  parallel_for(0, chunks, 16, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t begin = chunk * kChunk, count = entries - begin < kChunk ? entries - begin : kChunk;
      double mean[kChunk] = {}, entropy = 0;
      for (int64_t unit = 0; unit < units; ++unit) {
        for (int64_t i = 0; i < count; ++i) mean[i] += p.probability_sums[unit * entries + begin + i];
      }
      for (int64_t i = 0; i < count; ++i) {
        mean[i] /= static_cast<double>(p.rows);
        const double surprisal = -std::log(mean[i] < kSmallest ? kSmallest : mean[i]);
        static_cast<Real*>(p.surprisal)[begin + i] = static_cast<Real>(surprisal);
        entropy += mean[i] * surprisal;
      }
      p.entropy_sums[chunk] = entropy;
    }
  });
  double entropy = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) entropy += p.entropy_sums[chunk];
  *static_cast<Real*>(p.batch_entropy) = static_cast<Real>(entropy);
}

struct BinaryQuantize : OnCpu {
  using OnCpu::run;

  static void run(const BinaryParameters& p, const Tensor&) {
    run_units(p);
    if (p.surprisal) p.in_double ? add_entropies<double>(p) : add_entropies<float>(p);
  }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { BinaryQuantizeOperations<BinaryQuantize>::add_to(m); }

}  // namespace visgen
