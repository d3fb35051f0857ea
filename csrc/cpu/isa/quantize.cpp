// The family `quantize` on one instruction set: the exact scan, the filtered searches (scan.h), and what follows from
// codes.
//
// A depth of N rows of D dimensions and K codes takes 2·N·K·D operations, in int8 (AVX-512 VNNI), int16 or float32, and
// 3 to 13 differences and products in float for each dimension of a row, for as many codes scored one by one. In
// memory: rows, residuals and the packed codebook (1, 2 or 4 bytes a dimension) are read once a depth, the latter once
// a tile of 48 to 96 rows from the second- or third-level cache; residuals are written once a depth. On two threads of
// Zen 4, N×D, K of 16384×64, 1024 / 4096×256, 4096 / 65536×32, 512 / 16384×8, 16384, normal data, as a share of the
// peak of vpdpbusd (462 Gop/s a thread): 46% / 71% / 25% / 55%; of vpmaddwd and vpaddd on AVX2 (188 Gop/s): 59% / 79% /
// 39% / 60%. The scan alone reaches 90% / 99% / 84% / 96% of vpdpbusd's; short scans leave the rest to rounding,
// choosing and finishing rows, the one of 4096 codes of 256 dimensions to scoring codes that come from the third-level
// cache.
#include "../../ops/quantize.h"

#include "../kernels.h"
#include "scan.h"

namespace visgen::VISGEN_ISA {
namespace {

// Scores every code in double.
template <Metric metric, class Real>
void search_exactly(const Search& search, int64_t first_row, int64_t last_row) {
  const QuantizeParameters& call = *search.call;
  const int64_t dimensions = call.codebooks.dimensions;
  const Scratch buffer(sizeof(Real) * dimensions);
  for (int64_t row = first_row; row < last_row; ++row) {
    if (!active(call, row, search.depth)) {
      skip_row<Real>(search, row);
      continue;
    }
    const Real* r = residual(search, row, buffer.as<Real>());
    const bool finite = all_finite(r, dimensions);
    Nearest nearest;
    if (finite) {
      consider_codes<metric>(nearest, r, static_cast<const Real*>(search.codebook), 0, call.codebooks.codes,
                             dimensions);
    }
    finish_row(search, row, r, nearest.code < 0 ? 0 : nearest.code, finite);
  }
}

template <class Real>
void search_exactly(const Search& search, int64_t first_row, int64_t last_row) {
  switch (search.call->metric) {
    case Metric::l2:
      return search_exactly<Metric::l2, Real>(search, first_row, last_row);
    case Metric::cosine:
      return search_exactly<Metric::cosine, Real>(search, first_row, last_row);
    case Metric::dot:
      return search_exactly<Metric::dot, Real>(search, first_row, last_row);
  }
}

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

  // grad_x += (‖t‖/‖s‖)·(g − 2w(w·g) + 2ŝ(t̂·g)): the transpose of the rotation that takes s to t.
  void rotate(const Real* g, const Real* s, const Real* t) {
    const int64_t count = p_.codebooks.dimensions;
    const double s_norm = __builtin_sqrt(dot(s, s)), t_norm = __builtin_sqrt(dot(t, t));
    if (s_norm == 0) return pass(g, 1);
    if (t_norm == 0 && s_norm > 0) return;  // NaN goes on
    double w_square = 0, w_g = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double w = s[i] / s_norm + t[i] / t_norm;
      w_square += w * w;
      w_g += w * g[i];
    }
    const double reflected = w_square > 0 ? 2 * w_g / w_square : 0, turned = 2 * dot(t, g) / t_norm;
    for (int64_t i = 0; i < count; ++i) {
      const double s_unit = s[i] / s_norm, w = s_unit + t[i] / t_norm;
      grad_x_[i] += t_norm / s_norm * (g[i] - w * reflected + s_unit * turned);
    }
  }

 private:
  double dot(const Real* left, const Real* right) const {
    return -score<Metric::dot>(left, right, p_.codebooks.dimensions);
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
    memcpy(r, x, sizeof(Real) * dimensions);
    for (int64_t i = 0; i < dimensions; ++i) grad_x[i] = 0, sum[i] = 0;
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

template <class F, class Real>
constexpr FilterKernels filter() {
  return {pack_blocks<F, Real>, search_tiles<F, Real>, kLanes, kAccumulators};
}

#if defined(VISGEN_INT8_FILTER)
template <class Real>
constexpr FilterKernels kInt8 = filter<Int8, Real>();
#else
template <class Real>
constexpr FilterKernels kInt8 = {};
#endif
#if defined(VISGEN_INT16_FILTER)
template <class Real>
constexpr FilterKernels kInt16 = filter<Int16, Real>();
#else
template <class Real>
constexpr FilterKernels kInt16 = {};
#endif

// In the order of Filter.
constexpr FilterKernels filters_float[3] = {kInt8<float>, kInt16<float>, filter<Float32, float>()};
constexpr FilterKernels filters_double[3] = {kInt8<double>, kInt16<double>, {}};

}  // namespace

extern const QuantizeKernels quantize_kernels = {
    filters_float,          filters_double, measure<float>, measure<double>, search_exactly<float>,
    search_exactly<double>, embed<float>,   embed<double>,  backward<float>, backward<double>};

}  // namespace visgen::VISGEN_ISA
