// The family `diffuse` on the CPU.
#include "../ops/diffuse_call.h"

#include "device.h"

namespace visgen {
namespace {

// Adds the units of each row in their order, so that the sum does not depend on the number of threads.
template <class Real>
void add_up_rows(const DiffuseBackwardParameters& p) {
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

struct Diffuse {
  static void run(DiffuseParameters p, const Tensor&) {
    cut(p);
    run_units(p);
  }

  static void run(DiffuseBackwardParameters p, const Tensor& like) {
    cut(p);
    const OptionalTensor sums = add_partial_sums(p, like);
    run_units(p);
    if (sums) p.in_double ? add_up_rows<double>(p) : add_up_rows<float>(p);
  }

 private:
  static void cut(Diffusion& p) { p.partition = Partition(p.shape.samples, p.shape.elements, p.row_size, kUnit); }
};

}  // namespace

void run_diffuse_backward(const DiffuseBackwardParameters& p, const Tensor& like) { Diffuse::run(p, like); }

VISGEN_REGISTER(CPU, m) { DiffuseOperations<Diffuse>::add_to(m); }

}  // namespace visgen
