// The family `quantize` on a GPU: the backward pass into x, decoding, and which kernels serve an operation.
//
// Counted, not measured: no GPU has run these kernels, whose ceiling is the speed of memory. For N rows of D dimensions
// and Q depths, decoding reads 8·N·Q bytes of codes and 4·N·D·Q of embeddings, writes 4·N·D, and does N·D·Q additions
// (in float64 8 bytes for 4). The backward pass reads x and the gradient once and an embedding for every code, and
// writes grad_x. A rotation passes three times over what it turns: x and residuals are then in shared memory, but the
// gradient and the embeddings of its target are read again every time, so that "rotation" reads the gradient and each
// embedding four times, and "rotation_per_depth" reads each embedding four times and the gradient 3Q + 1 times. They
// mostly come from cache.
//
// Issue slots an element in the machine code for 9.0 (benchmarks/machine_code): residual_quantize 128×64, 256 codes, 2
// deep 79,151 a row and depth.
#include "../ops/quantize_call.h"

#include "code_sums.h"
#include "embedding.cuh"
#include "quantize_search.h"

namespace visgen {
namespace {

template <class Real, bool wide>
__global__ void __launch_bounds__(kBlockThreads) decode(DecodeParameters p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + warp_index();
  if (row >= p.rows) return;
  for_each_tile(p.codebooks.dimensions, [&](int64_t begin) {
    Real total[kSpan] = {0, 0, 0, 0}, e[kSpan];
    for (int64_t q = 0; q < p.depth; ++q) {
      load_embedding(wide, p.codebooks, q, p.codes[row * p.depth + q], begin, e);
#pragma unroll
      for (int i = 0; i < kSpan; ++i) total[i] += e[i];
    }
    store_row_as<Real>(wide, p.out, p.codebooks.dimensions, row, begin, total);
  });
}

// Two vectors of a row that a warp works on, each lane on its own tiles.
template <class Real>
struct RowBuffers {
  Real *residual, *gradient;

  __device__ __forceinline__ Vec<Real, kSpan> residual_at(int64_t begin) const {
    return load_vec<kSpan>(residual + begin);
  }
  __device__ __forceinline__ Vec<Real, kSpan> gradient_at(int64_t begin) const {
    return load_vec<kSpan>(gradient + begin);
  }
};

// Adds g turned and scaled as the rotation of s into t is, transposed (Fifty et al., 2410.06424): with s, t of lengths
// |s|, |t| and u = s/|s| + t/|t|, that is |t|/|s| · (g − 2u(u·g)/(u·u) + 2s/|s| (t·g)/|t|). load(begin, s, t, g) gives
// a tile of g and of s and t up to factors, of which `ratio` is that of s over that of t; add(begin, tile) takes the
// result.
template <class Real, class Load, class Add>
__device__ __forceinline__ void rotate_scaled(int64_t dimensions, double ratio, Load load, Add add) {
  double source_square = 0, target_square = 0;
  for_each_tile(dimensions, [&](int64_t begin) {
    Real s[kSpan], t[kSpan], g[kSpan];
    load(begin, s, t, g);
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      source_square += static_cast<double>(s[i]) * s[i];
      target_square += static_cast<double>(t[i]) * t[i];
    }
  });
  const double source_length = sqrt(warp_sum(source_square)), target_length = sqrt(warp_sum(target_square));
  if (source_length > 0 && target_length == 0) return;
  const bool turns = !(source_length == 0);  // no direction: straight through
  const double inverse_source = turns ? 1 / source_length : 0, inverse_target = turns ? 1 / target_length : 0;
  double u_square = 0, u_along = 0, target_along = 0;
  for_each_tile(dimensions, [&](int64_t begin) {
    Real s[kSpan], t[kSpan], g[kSpan];
    load(begin, s, t, g);
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      const double u = s[i] * inverse_source + t[i] * inverse_target;
      u_square += u * u;
      u_along += u * g[i];
      target_along += t[i] * inverse_target * g[i];
    }
  });
  u_square = warp_sum(u_square);
  const double scale = turns ? target_length / source_length * ratio : 1.0;
  const double along_u = u_square == 0 ? 0.0 : -2 * warp_sum(u_along) / u_square;
  const double along_source = 2 * warp_sum(target_along) * inverse_source;
  for_each_tile(dimensions, [&](int64_t begin) {
    Real s[kSpan], t[kSpan], g[kSpan];
    load(begin, s, t, g);
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      const double u = s[i] * inverse_source + t[i] * inverse_target;
      g[i] = static_cast<Real>(scale * (g[i] + along_u * u + along_source * s[i]));
    }
    add(begin, g);
  });
}

// The same; float64 numbers whose squares it does not hold are scaled by powers of two.
template <class Real, class Load, class Add>
__device__ __forceinline__ void rotate_back(int64_t dimensions, Load load, Add add) {
  if constexpr (sizeof(Real) == 4) {
    rotate_scaled<Real>(dimensions, 1, load, add);
  } else {
    double largest_source = 0, largest_target = 0;
    for_each_tile(dimensions, [&](int64_t begin) {
      Real s[kSpan], t[kSpan], g[kSpan];
      load(begin, s, t, g);
      for (int i = 0; i < kSpan; ++i) {
        largest_source = ::fmax(largest_source, ::fabs(s[i]));
        largest_target = ::fmax(largest_target, ::fabs(t[i]));
      }
    });
    const double source_scale = cuda::squarable(warp_max(largest_source));
    const double target_scale = cuda::squarable(warp_max(largest_target));
    const auto load_scaled = [&](int64_t begin, Real(&s)[kSpan], Real(&t)[kSpan], Real(&g)[kSpan]) {
      load(begin, s, t, g);
      for (int i = 0; i < kSpan; ++i) s[i] *= source_scale, t[i] *= target_scale;
    };
    rotate_scaled<Real>(dimensions, source_scale / target_scale, load_scaled, add);
  }
}

template <class Real, bool wide>
__global__ void __launch_bounds__(kBlockThreads)
    backward_into_x(QuantizeBackwardParameters p, Real* scratch, int64_t stride) {
  const int64_t D = p.codebooks.dimensions;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * warps_per_block() + warp_index();
  if (row >= p.rows) return;
  Real* own = scratch ? scratch + 2 * row * stride : dynamic_shared<Real>() + 2 * warp_index() * stride;
  const RowBuffers<Real> buffers{own, own + stride};
  const int64_t* codes = p.codes + row * p.depth;
  int64_t active = 0;
  for (int64_t q = 0; q < p.depth; ++q) active += codes[q] != -1;
  const auto load_gradient = [&](int64_t begin, Real(&g)[kSpan]) {
    load_row(wide, p.grad_quantized, p.dtype, D, row, begin, g);
  };
  const auto add_gradient = [&](int64_t begin, const Real(&g)[kSpan]) {
    auto sum = buffers.gradient_at(begin);
#pragma unroll
    for (int i = 0; i < kSpan; ++i) sum[i] += g[i];
    store_vec(buffers.gradient + begin, sum);
  };
  const Real straight = p.gradient == Gradient::straight_through             ? Real(1)
                        : p.gradient == Gradient::straight_through_per_depth ? static_cast<Real>(active)
                                                                             : Real(0);
  for_each_tile(D, [&](int64_t begin) {
    Real x[kSpan], g[kSpan];
    load_row(wide, p.x, p.dtype, D, row, begin, x);
    load_gradient(begin, g);
    Vec<Real, kSpan> residual, gradient;
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      residual[i] = x[i];
      gradient[i] = straight == Real(0) ? Real(0) : straight * g[i];
    }
    store_vec(buffers.residual + begin, residual);
    store_vec(buffers.gradient + begin, gradient);
  });
  if (p.gradient == Gradient::rotation) {
    rotate_back<Real>(
        D,
        [&](int64_t begin, Real(&s)[kSpan], Real(&t)[kSpan], Real(&g)[kSpan]) {
          const auto x = buffers.residual_at(begin);
          for (int i = 0; i < kSpan; ++i) s[i] = x[i], t[i] = Real(0);
          for (int64_t q = 0; q < p.depth; ++q) {
            load_embedding(wide, p.codebooks, q, codes[q], begin, g);
            for (int i = 0; i < kSpan; ++i) t[i] += g[i];
          }
          load_gradient(begin, g);
        },
        add_gradient);
  }
  for (int64_t q = 0; q < p.depth; ++q) {
    if (codes[q] == -1) continue;
    if (p.gradient == Gradient::rotation_per_depth) {
      rotate_back<Real>(
          D,
          [&](int64_t begin, Real(&s)[kSpan], Real(&t)[kSpan], Real(&g)[kSpan]) {
            const auto r = buffers.residual_at(begin);
            for (int i = 0; i < kSpan; ++i) s[i] = r[i];
            load_embedding(wide, p.codebooks, q, codes[q], begin, t);
            load_gradient(begin, g);
          },
          add_gradient);
    }
    const double incoming =
        p.grad_commitment ? static_cast<const Real*>(p.grad_commitment)[row * p.depth + q] : Real(0);
    const Real weight = static_cast<Real>(2 * incoming / static_cast<double>(D));
    for_each_tile(D, [&](int64_t begin) {
      auto r = buffers.residual_at(begin);
      auto gradient = buffers.gradient_at(begin);
      Real e[kSpan];
      load_embedding(wide, p.codebooks, q, codes[q], begin, e);
#pragma unroll
      for (int i = 0; i < kSpan; ++i) {
        r[i] -= e[i];
        if (p.grad_commitment) gradient[i] += weight * r[i];
      }
      store_vec(buffers.residual + begin, r);
      store_vec(buffers.gradient + begin, gradient);
    });
  }
  for_each_tile(D, [&](int64_t begin) {
    const auto gradient = buffers.gradient_at(begin);
    store_row(wide, p.grad_x, p.dtype, D, row, begin, gradient.lanes);
  });
}

template <class Real, bool wide>
void run_backward_into_x(const QuantizeBackwardParameters& p, const Tensor& like, Stream stream) {
  const int64_t stride = (p.codebooks.dimensions + kSpan - 1) / kSpan * kSpan;
  LaunchShape shape = warp_grid(p.rows);
  const size_t bytes = 2 * kRowsPerBlock * stride * sizeof(Real);
  const bool fits = bytes <= shared_memory_limit(like.get_device_index());
  if (fits) shape.dynamic_shared_bytes = bytes;
  const Tensor scratch = empty_on(like, {fits ? 0 : 2 * p.rows * stride}, real_type_of(p.in_double));
  Real* data = fits ? nullptr : static_cast<Real*>(scratch.mutable_data_ptr());
  launch<backward_into_x<Real, wide>>(shape, stream, p, data, stride);
}

struct Quantize {
  static void run(const QuantizeParameters& p, const Tensor& like) {
    if (!search_by_filter(p, like)) search_by_scan(p, like);
  }

  static void run(const QuantizeBackwardParameters& p, const Tensor& like) {
    const OnDevice on(like.get_device_index());
    const int64_t D = p.codebooks.dimensions;
    const bool wide = has_wide_rows(p.x, p.dtype, D) && has_wide_rows(p.codebooks.data, real_type(p.in_double), D) &&
                      has_wide_rows(p.grad_quantized, p.dtype, D) && has_wide_rows(p.grad_x, p.dtype, D);
    choose_row(p.in_double, wide,
               [&]<class Real, bool is_wide>() { run_backward_into_x<Real, is_wide>(p, like, on.stream); });
  }

  static void run(const DecodeParameters& p, const Tensor& like) {
    const OnDevice on(like.get_device_index());
    const bool wide = has_wide_rows(p.codebooks.data, p.dtype, p.codebooks.dimensions) &&
                      has_wide_rows(p.out, p.dtype, p.codebooks.dimensions);
    choose_row(p.in_double, wide,
               [&]<class Real, bool is_wide>() { launch<decode<Real, is_wide>>(warp_grid(p.rows), on.stream, p); });
  }

  static void run(const CodeSums& p, const Tensor& like) { sum_by_code(p, like); }
};

}  // namespace

VISGEN_REGISTER(CUDA, m) { QuantizeOperations<Quantize>::add_to(m); }

}  // namespace visgen
