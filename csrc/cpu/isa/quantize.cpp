// The family `quantize` on one instruction set, given codes: sums of embeddings, and the backward pass into x. The
// search for codes is in search/.
//
// In memory: a row's gradient and x are read once, an embedding for every code, which mostly comes from cache; the sum
// or the gradient is written once.
#include "../../ops/quantize.h"

#include "../embedding.h"
#include "../kernels.h"
#include "search/score.h"

namespace visgen::VISGEN_ISA {
namespace {

template <class Real>
void embed(const Embedding& p, int64_t first_row, int64_t last_row) {
  const int64_t dimensions = p.codebooks.dimensions;
  const Scratch buffer(sizeof(Real) * dimensions);
  for (int64_t row = first_row; row < last_row; ++row) {
    Real* sum = p.dtype == kArithmetic<Real> ? static_cast<Real*>(p.out) + row * dimensions : buffer.as<Real>();
    const Real start = p.broken && p.broken[row] ? static_cast<Real>(NAN) : 0;
    for (int64_t i = 0; i < dimensions; ++i) sum[i] = start;
    for (int64_t q = 0; q < p.depth; ++q) {
      const int64_t code = p.codes[row * p.depth + q];
      if (code < 0) continue;
      const Real* e = static_cast<const Real*>(p.codebooks.data) + q * p.codebooks.stride + code * dimensions;
      for (int64_t i = 0; i < dimensions; ++i) sum[i] += e[i];
    }
    if (p.dtype != kArithmetic<Real>) store_row(sum, p.out, p.dtype, row, dimensions);
  }
}

// The gradient of quantized into x, for one row: what backward() adds up, in double.
template <class Real>
class Estimator {
 public:
  Estimator(const QuantizeBackwardParameters& p, double* grad_x) : p_(p), grad_x_(grad_x) {}

  // grad_x += weight · g
  void pass(const Real* g, double weight) {
    for (int64_t i = 0; i < p_.codebooks.dimensions; ++i) grad_x_[i] += weight * g[i];
  }

  // grad_x += (‖t‖/‖s‖)·(g − 2w(w·g) + 2ŝ(t̂·g)): the transpose of the rotation that takes s to t. Float64 numbers whose
  // squares it does not hold are scaled by powers of two.
  void rotate(const Real* g, const Real* s, const Real* t) {
    const int64_t count = p_.codebooks.dimensions;
    const double s_scale = scale_of(s), t_scale = scale_of(t);
    const double s_norm = __builtin_sqrt(dot(s, s_scale, s, s_scale));
    const double t_norm = __builtin_sqrt(dot(t, t_scale, t, t_scale));
    if (s_norm == 0) return pass(g, 1);
    if (t_norm == 0 && s_norm > 0) return;  // NaN goes on
    double w_square = 0, w_g = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double w = s[i] * s_scale / s_norm + t[i] * t_scale / t_norm;
      w_square += w * w;
      w_g += w * g[i];
    }
    const double reflected = w_square > 0 ? 2 * w_g / w_square : 0, turned = 2 * dot(t, t_scale, g, 1) / t_norm;
    const double ratio = t_norm / s_norm * (s_scale / t_scale);
    for (int64_t i = 0; i < count; ++i) {
      const double s_unit = s[i] * s_scale / s_norm, w = s_unit + t[i] * t_scale / t_norm;
      grad_x_[i] += ratio * (g[i] - w * reflected + s_unit * turned);
    }
  }

 private:
  double scale_of(const Real* row) const {
    if constexpr (sizeof(Real) == 4) return 1;
    double largest = 0;
    for (int64_t i = 0; i < p_.codebooks.dimensions; ++i) {
      const double magnitude = row[i] < 0 ? -row[i] : row[i];
      largest = magnitude > largest ? magnitude : largest;
    }
    return squarable(largest);
  }

  // Of the two rows times their scales, which float32 does not need.
  double dot(const Real* left, double left_scale, const Real* right, double right_scale) const {
    if constexpr (sizeof(Real) == 4) return -score<Metric::dot>(left, right, p_.codebooks.dimensions);
    double sum = 0;
    for (int64_t i = 0; i < p_.codebooks.dimensions; ++i) sum += (left[i] * left_scale) * (right[i] * right_scale);
    return sum;
  }

  const QuantizeBackwardParameters& p_;
  double* grad_x_;
};

template <class Real>
void backward(const QuantizeBackwardParameters& p, int64_t first_row, int64_t last_row) {
  const int64_t dimensions = p.codebooks.dimensions;
  const Scratch doubles(sizeof(double) * dimensions), reals(5 * sizeof(Real) * dimensions);
  double* grad_x = doubles.as<double>();
  Real *x_buffer = reals.as<Real>(), *g_buffer = x_buffer + dimensions, *r = g_buffer + dimensions,
       *sum = r + dimensions, *out = sum + dimensions;
  Estimator<Real> estimator(p, grad_x);
  for (int64_t row = first_row; row < last_row; ++row) {
    const Real* x = real_row(p.x, p.dtype, row, dimensions, x_buffer);
    const Real* g = p.grad_quantized ? real_row(p.grad_quantized, p.dtype, row, dimensions, g_buffer) : nullptr;
    for (int64_t i = 0; i < dimensions; ++i) r[i] = x[i], grad_x[i] = 0, sum[i] = 0;
    int64_t active_depths = 0;
    for (int64_t q = 0; q < p.depth; ++q) {
      const int64_t at = row * p.depth + q, code = p.codes[at];
      if (code < 0) continue;
      ++active_depths;
      const Real* e = static_cast<const Real*>(p.codebooks.data) + q * p.codebooks.stride + code * dimensions;
      if (g && p.gradient == Gradient::rotation_per_depth) estimator.rotate(g, r, e);
      for (int64_t i = 0; i < dimensions; ++i) sum[i] += e[i], r[i] -= e[i];
      if (p.grad_commitment) {
        estimator.pass(r, 2 * static_cast<double>(static_cast<const Real*>(p.grad_commitment)[at]) / dimensions);
      }
    }
    if (g && p.gradient == Gradient::straight_through) estimator.pass(g, 1);
    if (g && p.gradient == Gradient::straight_through_per_depth) estimator.pass(g, active_depths);
    if (g && p.gradient == Gradient::rotation) estimator.rotate(g, x, sum);
    for (int64_t i = 0; i < dimensions; ++i) out[i] = static_cast<Real>(grad_x[i]);
    store_row(out, p.grad_x, p.dtype, row, dimensions);
  }
}

}  // namespace

const Loops<Embedding, QuantizeBackwardParameters> quantize_kernels = {{embed<float>, embed<double>},
                                                                       {backward<float>, backward<double>}};

}  // namespace visgen::VISGEN_ISA
