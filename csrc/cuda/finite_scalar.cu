// The family `finite_scalar` on a GPU: x read once, the results written once; per element a hyperbolic tangent.
//
// The ceiling is the speed of memory. This is counted: no GPU has measured what share of it the kernels reach.
#include "../ops/finite_scalar_call.h"

#include "code_rows.cuh"

namespace visgen {
namespace {

template <class Real>
__device__ __forceinline__ Real rounded(Real value) {
  constexpr Real kIntegers = sizeof(Real) == 4 ? Real(12582912) : Real(6755399441055744);
  return (value + kIntegers) - kIntegers;
}

// The same in the arithmetic's type: a GPU is slow to convert.
template <class Real>
Levels<Real> converted(const Levels<double>& levels) {
  Levels<Real> result{levels.round_half_up, {}};
  for (int j = 0; j < kMaxColumns; ++j) {
    const LevelColumn<double>& from = levels.column[j];
    result.column[j] = {static_cast<Real>(from.shift),
                        static_cast<Real>(from.half),
                        static_cast<Real>(from.offset),
                        static_cast<Real>(from.lowest),
                        static_cast<Real>(from.step),
                        static_cast<Real>(from.origin),
                        from.levels};
  }
  return result;
}

// All of it is a kernel's own: on a GPU `p.levels` points nowhere.
static_assert(sizeof(FiniteScalarBackwardParameters) + sizeof(Levels<double>) <= 4096, "what a kernel may be told");

template <class Real, bool wide>
__global__ void __launch_bounds__(kRowsInBlock<Real>) quantize(FiniteScalarParameters p, Levels<Real> levels) {
  Real* rows = dynamic_shared<Real>();
  load_rows<wide>(p, p.x, first_row<Real>(), rows);
  sync_block();
  const int64_t row = first_row<Real>() + threadIdx.x;
  if (row < p.rows) {
    Real* values = rows + threadIdx.x * pitch(p.columns);
    int64_t code = 0;
    bool has_nan = false;
    for (int j = p.columns - 1; j >= 0; --j) {  // the first column is the least significant
      const LevelColumn<Real>& column = levels.column[j];
      has_nan |= values[j] != values[j];
      Real bounded = cuda::hyperbolic_tangent(values[j] + column.shift) * column.half - column.offset;
      if (levels.round_half_up) bounded += Real(0.5);
      Real level = rounded(bounded);
      if (levels.round_half_up && level > bounded) level -= 1;  // floor
      level = has_nan ? Real(0) : level - column.lowest;
      code = code * column.levels + static_cast<int32_t>(level);
      values[j] = (level * column.step - column.origin) / column.origin;
    }
    write_code(p, row, code, has_nan, values);
  }
  sync_block();
  store_rows<wide>(p, p.quantized, first_row<Real>(), rows);
}

template <class Real, bool wide>
__global__ void __launch_bounds__(kRowsInBlock<Real>) backward(FiniteScalarBackwardParameters p, Levels<Real> levels) {
  Real* rows = dynamic_shared<Real>();
  Real* incoming = rows + kRowsInBlock<Real> * pitch(p.columns);
  load_rows<wide>(p, p.x, first_row<Real>(), rows);
  load_rows<wide>(p, p.grad_quantized, first_row<Real>(), incoming);
  sync_block();
  for (int j = 0; first_row<Real>() + threadIdx.x < p.rows && j < p.columns; ++j) {
    const LevelColumn<Real>& column = levels.column[j];
    const int at = threadIdx.x * pitch(p.columns) + j;
    const Real tangent = cuda::hyperbolic_tangent(rows[at] + column.shift);
    rows[at] = incoming[at] * (column.half * column.step / column.origin) * (1 - tangent * tangent);
  }
  sync_block();
  store_rows<wide>(p, p.grad_x, first_row<Real>(), rows);
}

struct FiniteScalar : DecodesRows {
  using DecodesRows::run;

  static void run(const FiniteScalarParameters& p, const Tensor& like) {
    choose_access(p, like, {&p.x, &p.quantized}, [&]<class Real, bool wide>(Stream stream) {
      launch<quantize<Real, wide>>(row_grid<Real>(p, 1), stream, p, converted<Real>(*p.levels));
    });
  }

  static void run(const FiniteScalarBackwardParameters& p, const Tensor& like) {
    choose_access(p, like, {&p.x, &p.grad_quantized, &p.grad_x}, [&]<class Real, bool wide>(Stream stream) {
      launch<backward<Real, wide>>(row_grid<Real>(p, 2), stream, p, converted<Real>(*p.levels));
    });
  }
};

}  // namespace

VISGEN_REGISTER(CUDA, m) { FiniteScalarOperations<FiniteScalar>::add_to(m); }

}  // namespace visgen
