// Gradients of what rows share, on one instruction set: a few numbers for each unit of rows, added up in double.
#include "operand_rows.h"

#include "../kernels.h"

namespace visgen::VISGEN_ISA {
namespace {

template <class Real>
void add_up(const SharedGradient& p, int64_t first_group, int64_t last_group) {
  const Scratch memory(p.columns * sizeof(double));
  double* sums = memory.as<double>();
  const int64_t stride = column_stride(p.gradient, p.shape);
  for (int64_t group = first_group; group < last_group; ++group) {
    for (int64_t i = 0; i < p.columns; ++i) sums[i] = 0;
    for (int64_t member = 0; member < p.members; ++member) {
      const double* part = p.partial_sums + member_at(p, group, member).run * p.units_per_run * p.unit_stride;
      for (int64_t unit = 0; unit < p.units_per_run; ++unit, part += p.unit_stride) add_row(part, p.columns, sums);
    }
    visit_floating(p.gradient.dtype, [&]<class Stored, DType dtype>() {
      Stored* out = static_cast<Stored*>(p.gradient.data) + member_at(p, group, 0).offset;
      if (stride) {
        for (int64_t i = 0; i < p.columns; ++i) encode(static_cast<Real>(sums[i]), out[i * stride], dtype);
      } else {
        encode(static_cast<Real>(sum_of_row(sums, p.columns)), *out, dtype);
      }
    });
  }
}

}  // namespace

const Loops<SharedGradient> operand_rows_kernels = {{add_up<float>, add_up<double>}};

}  // namespace visgen::VISGEN_ISA
