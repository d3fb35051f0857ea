// The family `binary_quantize` on a GPU: x read once, the results written once; per element, with entropies, an
// exponential, a logarithm and two divisions, and what binary_tables.cuh says.
//
// The ceiling is the speed of memory. This is counted: no GPU has measured what share of it the kernels reach.
#include "../ops/binary_quantize_call.h"

#include "binary_tables.cuh"

namespace visgen {
namespace {

__device__ __forceinline__ bool is_finite(double value) { return value - value == 0; }

template <class Real, bool wide>
__global__ void __launch_bounds__(kRowsInBlock<Real>) quantize(BinaryParameters p) {
  Real* rows = dynamic_shared<Real>();
  load_rows<wide>(p, p.x, first_row<Real>(), rows);
  sync_block();
  const int64_t row = first_row<Real>() + threadIdx.x;
  if (row < p.rows) {
    Real* values = rows + threadIdx.x * pitch(p.columns);
    const double factor = factor_of_row<Real>(p, [&](int j) { return values[j]; });
    int64_t code = 0;
    bool has_nan = false;
    Real entropy = 0, lost = 0;
    for (int j = 0; j < p.columns; ++j) {
      const Real u = p.radius == 0 ? values[j] : static_cast<Real>(values[j] * factor);
      has_nan |= u != u;
      code = code * 2 + (u > 0);
      if (p.surprisal) cuda::add_compensated(bit_of(logit_of(p, values[j], factor)).entropy, entropy, lost);
      values[j] = static_cast<Real>(u > 0 ? p.corner : -p.corner);
    }
    write_code(p, row, code, has_nan, values);
    if (p.surprisal) static_cast<Real*>(p.sample_entropy)[row] = entropy;
  }
  sync_block();
  store_rows<wide>(p, p.quantized, first_row<Real>(), rows);
}

template <class Real, bool wide>
__global__ void __launch_bounds__(kRowsInBlock<Real>) backward(BinaryBackwardParameters p, const Real* grad_logits) {
  Real* rows = dynamic_shared<Real>();
  Real* incoming = rows + kRowsInBlock<Real> * pitch(p.columns);
  load_rows<wide>(p, p.x, first_row<Real>(), rows);
  if (p.grad_quantized.data) load_rows<wide>(p, p.grad_quantized, first_row<Real>(), incoming);
  sync_block();
  const int64_t row = first_row<Real>() + threadIdx.x;
  if (row < p.rows) {
    Real *x = rows + threadIdx.x * pitch(p.columns), *gradient = incoming + threadIdx.x * pitch(p.columns);
    const double factor = factor_of_row<Real>(p, [&](int j) { return x[j]; });
    const Real of_sample = p.grad_sample_entropy ? static_cast<const Real*>(p.grad_sample_entropy)[row] : Real(0);
    const Real of_batch =
        p.grad_batch_entropy ? *static_cast<const Real*>(p.grad_batch_entropy) / static_cast<Real>(p.rows) : Real(0);
    double along = 0;
    for (int j = 0; j < p.columns; ++j) {
      const Real u = p.radius == 0 ? x[j] : static_cast<Real>(x[j] * factor);
      Real sum = p.grad_quantized.data && is_finite(u) ? gradient[j] : Real(0);  // straight through
      if (p.grad_sample_entropy || p.grad_batch_entropy) {
        const Bit<Real> bit = bit_of(logit_of(p, x[j], factor));
        Real of_logit = -of_sample * bit.logit * (bit.set * bit.unset);
        if (p.grad_batch_entropy) of_logit += of_batch * grad_logits[row * p.columns + j];
        sum += of_logit * static_cast<Real>(p.logit_of_u);
      }
      gradient[j] = sum;
      along += static_cast<double>(sum) * x[j];
    }
    // What points away from the sphere is lost; where the norm is below its bound, it is no function of x.
    const double unit = factor / p.radius;
    along = unit < 1e12 ? along * unit * unit : 0;
    for (int j = 0; j < p.columns; ++j) {
      x[j] = p.radius == 0 ? gradient[j] : static_cast<Real>((gradient[j] - along * x[j]) * factor);
    }
  }
  sync_block();
  store_rows<wide>(p, p.grad_x, first_row<Real>(), rows);
}

struct BinaryQuantize : DecodesRows {
  using DecodesRows::run;

  static void run(const BinaryParameters& p, const Tensor& like) {
    choose_access(p, like, {&p.x, &p.quantized}, [&]<class Real, bool wide>(Stream stream) {
      launch<quantize<Real, wide>>(row_grid<Real>(p, 1), stream, p);
      if (p.surprisal) launch_tables<Real>(p, stream);
    });
  }

  static void run(const BinaryBackwardParameters& p, const Tensor& like) {
    const Tensor scratch = empty_on(like, {p.grad_batch_entropy ? p.rows : 0, p.columns}, real_type_of(p.in_double));
    choose_access(p, like, {&p.x, &p.grad_quantized, &p.grad_x}, [&]<class Real, bool wide>(Stream stream) {
      Real* grad_logits = static_cast<Real*>(scratch.mutable_data_ptr());
      if (p.grad_batch_entropy) launch_gradients(p, grad_logits, stream);
      launch<backward<Real, wide>>(row_grid<Real>(p, 2), stream, p, grad_logits);
    });
  }
};

}  // namespace

VISGEN_REGISTER(CUDA, m) { BinaryQuantizeOperations<BinaryQuantize>::add_to(m); }

}  // namespace visgen
