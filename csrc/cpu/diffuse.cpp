// The family `diffuse` on the CPU.
#include "../ops/diffuse_call.h"

#include "kernels.h"
#include "parallel.h"

namespace visgen {
namespace {

// Adds the units of each row in their order, so that the sum does not depend on the number of threads.
template <class Real>
void add_partial_sums(const DiffuseParameters& p) {
  const int64_t rows = p.partition.units() / p.partition.units_per_row;
  for (int64_t row = 0; row < rows; ++row) {
    for (int j = 0; j < p.coefficient_count; ++j) {
      double sum = 0;
      for (int64_t unit = 0; unit < p.partition.units_per_row; ++unit) {
        sum += p.partial_sums[(row * p.partition.units_per_row + unit) * p.coefficient_count + j];
      }
      static_cast<Real*>(p.grad_coefficients)[row * p.coefficient_count + j] = static_cast<Real>(sum);
    }
  }
}

struct OnCpu {
  static Partition cut(int64_t samples, int64_t elements, int64_t row_size) {
    return Partition(samples, elements, row_size, kUnit);
  }

  static void forward(const DiffuseParameters& p, int32_t) {
    const auto& table = kernels().diffuse;
    for_units(p.partition, [&](int64_t begin, int64_t end) {
      (p.in_double ? table.forward_double : table.forward_float)(p, begin, end);
    });
  }

  static void backward(const DiffuseParameters& p, int32_t) {
    const auto& table = kernels().diffuse;
    for_units(p.partition, [&](int64_t begin, int64_t end) {
      (p.in_double ? table.backward_double : table.backward_float)(p, begin, end);
    });
    if (p.partial_sums) p.in_double ? add_partial_sums<double>(p) : add_partial_sums<float>(p);
  }
};

}  // namespace

VISGEN_REGISTER(CPU, m) { DiffuseOperations<OnCpu>::add_to(m); }

}  // namespace visgen
