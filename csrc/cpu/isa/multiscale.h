// Windows of a tile: their sums, their penalties, and the way of a gradient back into them.
//
// A level is a matrix of the sums of its windows. It is made of the level below it, and becomes the gradient into those
// sums.
#pragma once

#include "../../common/multiscale.h"
#include "../../ops/multiscale.h"
#include "rows.h"

namespace visgen::VISGEN_ISA {

// Vectors of the arithmetic's type, and what has no operator.
template <class Real>
struct Vectors;
template <>
struct Vectors<float> {
  typedef FloatVector Type;
  typedef IntVector Places;
};
template <>
struct Vectors<double> {
  typedef DoubleVector Type;
  typedef int64_t Places __attribute__((vector_size(kVectorBytes)));
};
template <class Vector, class Real>
VISGEN_HOST_DEVICE Vector load(const Real* address) {
  Vector result;
  memcpy(&result, address, sizeof(result));
  return result;
}

template <class Real>
constexpr int kCount = kVectorBytes / sizeof(Real);  // of a vector

template <>
struct Root<FloatVector> {
  static VISGEN_HOST_DEVICE FloatVector of(FloatVector value) { return Lanes<WordVector>::sqrt(value); }
};
template <>
struct Root<DoubleVector> {
  static VISGEN_HOST_DEVICE DoubleVector of(DoubleVector value) {
    for (int lane = 0; lane < kDoubles; ++lane) value[lane] = __builtin_sqrt(value[lane]);
    return value;
  }
};

// A sum in double.
template <class Real>
class Total {
 public:
  typedef typename Vectors<Real>::Type Vector;

  // Of make(place) for places 0, 1, …, count − 1, vectors first, then numbers. They are added up in their own type
  // first, a few to a lane, in sums that don't wait for one another.
  template <class Vectors, class Numbers>
  void add(int64_t count, Vectors make_vector, Numbers make_number) {
    int64_t j = 0;
    for (int64_t left = count / kCount<Real>; left > 0;) {
      Vector sums[kSums];
      memcpy(sums, sums_, sizeof(sums));
      const int64_t now = left < kMost - held_ ? left : kMost - held_;
      int64_t i = 0;
      for (; i + kSums <= now; i += kSums) {
        for (int k = 0; k < kSums; ++k, j += kCount<Real>) sums[k] += make_vector(j);
      }
      for (; i < now; ++i, j += kCount<Real>) sums[0] += make_vector(j);
      memcpy(sums_, sums, sizeof(sums));
      left -= now, held_ += now;
      if (held_ == kMost) flush();
    }
    for (; j < count; ++j) rest_ += make_number(j);
  }

  void add(Vector value) {
    sums_[0] += value;
    if (++held_ == kMost) flush();
  }

  double value() {
    flush();
    double total = rest_;
    for (int lane = 0; lane < kDoubles; ++lane) total += in_double_[lane];
    return total;
  }

 private:
  static constexpr int kSums = 4, kMost = 64;  // vectors

  void flush() {
    const Vector sum = (sums_[0] + sums_[1]) + (sums_[2] + sums_[3]);
    Real lanes[kCount<Real>];
    memcpy(lanes, &sum, sizeof(lanes));
    for (int begin = 0; begin < kCount<Real>; begin += kDoubles) in_double_ += load_doubles(lanes + begin);
    for (Vector& each : sums_) each = Vector{};
    held_ = 0;
  }

  Vector sums_[kSums] = {};
  int64_t held_ = 0;
  DoubleVector in_double_{};
  double rest_ = 0;
};

// A level within a tile.
template <class Real>
struct Matrix {
  Real* data;
  int64_t rows, columns, stride;
  Real* row(int64_t y) const { return data + y * stride; }
};

// Up to `padded` columns a row is filled with zeros, which windows that the picture cuts off may add.
template <class Real>
void pad(const Matrix<Real>& matrix, int64_t y, int64_t padded) {
  for (int64_t j = matrix.columns; j < padded; ++j) matrix.row(y)[j] = 0;
}

// Sums of neighbours of two vectors that follow one another.
template <class Real, class Vector = typename Vectors<Real>::Type>
VISGEN_HOST_DEVICE Vector add_neighbours(Vector first, Vector second) {
#if defined(__clang__)  // has no shuffle by a computed vector
  Vector result;
  for (int i = 0; i < kCount<Real> / 2; ++i) {
    result[i] = first[2 * i] + first[2 * i + 1];
    result[kCount<Real> / 2 + i] = second[2 * i] + second[2 * i + 1];
  }
  return result;
#else
  typename Vectors<Real>::Places even;
  for (int i = 0; i < kCount<Real>; ++i) even[i] = 2 * i;
  return __builtin_shuffle(first, second, even) + __builtin_shuffle(first, second, even + 1);
#endif
}

// Each lane twice, in two vectors that follow one another.
template <class Real, class Vector = typename Vectors<Real>::Type>
VISGEN_HOST_DEVICE void repeat(Vector value, Vector (&twice)[2]) {
#if defined(__clang__)
  for (int i = 0; i < 2 * kCount<Real>; ++i) twice[i / kCount<Real>][i % kCount<Real>] = value[i / 2];
#else
  typename Vectors<Real>::Places half;
  for (int i = 0; i < kCount<Real>; ++i) half[i] = i / 2;
  twice[0] = __builtin_shuffle(value, half);
  twice[1] = __builtin_shuffle(value, half + kCount<Real> / 2);
#endif
}

// Sums of 2×2 neighbours of two rows.
template <class Real>
void pool_pairs(const Real* first, const Real* second, Real* sums, int64_t count) {
  typedef typename Vectors<Real>::Type Vector;
  int64_t j = 0;
  for (; j + kCount<Real> <= count; j += kCount<Real>) {
    const auto both = [&](int64_t at) { return load<Vector>(first + at) + load<Vector>(second + at); };
    const Vector sum = add_neighbours<Real>(both(2 * j), both(2 * j + kCount<Real>));
    memcpy(sums + j, &sum, sizeof(sum));
  }
  for (; j < count; ++j) sums[j] = (first[2 * j] + second[2 * j]) + (first[2 * j + 1] + second[2 * j + 1]);
}

// Sums of ratio×ratio neighbours. `zeros` is a row of them.
template <class Real>
void pool(const Matrix<Real>& in, int64_t ratio, const Matrix<Real>& out, const Real* zeros) {
  for (int64_t y = 0; y < out.rows; ++y) {
    Real* __restrict sums = out.row(y);
    if (ratio == 2) {
      pool_pairs(in.row(2 * y), 2 * y + 1 < in.rows ? in.row(2 * y + 1) : zeros, sums, out.columns);
      continue;
    }
    for (int64_t j = 0; j < out.columns; ++j) sums[j] = 0;
    for (int64_t i = y * ratio; i < (y + 1) * ratio && i < in.rows; ++i) {
      const Real* next = in.row(i);
      for (int64_t j = 0; j < out.columns; ++j) {
        for (int64_t k = 0; k < ratio; ++k) sums[j] += next[j * ratio + k];
      }
    }
  }
}

// factor · each of `count` columns, and what the windows of two columns have.
template <class Real>
void add_pairs(Real factor, const Real* columns, const Real* windows, int64_t count, Real* out) {
  typedef typename Vectors<Real>::Type Vector;
  int64_t j = 0;
  for (; j + 2 * kCount<Real> <= count; j += 2 * kCount<Real>) {
    Vector spread[2];
    repeat<Real>(load<Vector>(windows + j / 2), spread);
    for (int i = 0; i < 2; ++i) {
      const Vector sum = factor * load<Vector>(columns + j + i * kCount<Real>) + spread[i];
      memcpy(out + j + i * kCount<Real>, &sum, sizeof(sum));
    }
  }
  for (; j < count; ++j) out[j] = factor * columns[j] + windows[j / 2];
}

// Adds to a row what its windows have, each of `ratio` columns.
template <class Real>
void add_spread(const Real* windows, int64_t ratio, Real* row, int64_t count) {
  if (ratio == 2) return add_pairs(Real(1), row, windows, count, row);
  for (int64_t begin = 0; begin < count; begin += ratio) {
    for (int64_t j = begin; j < begin + ratio && j < count; ++j) row[j] += windows[begin / ratio];
  }
}

template <class Real>
void scale_row(const Real* in, int64_t count, Real factor, Real* out) {
  for (int64_t j = 0; j < count; ++j) out[j] = factor * in[j];
}

// Of windows of n elements, `share` being 1/n: adds up their penalties; `sums` become slopes · factor. With weights, of
// which these are sums too, r̄ = Σwr/Σw is penalized by w̄ = Σw/n.
template <bool weighted, class Real, class Penalize>
void penalize(Penalize rho, Real* sums, const Real* weights, int64_t count, Real share, Real factor,
              Total<Real>& total) {
  const auto of = [&](auto& sum, auto weight) {
    decltype(weight) mean = sum * share, penalty;
    if constexpr (weighted) mean = weight != 0 ? sum / weight : decltype(weight){};
    rho.at(mean, penalty, sum);
    if constexpr (weighted) penalty = weight != 0 ? penalty * (weight * share) : decltype(weight){};
    sum = sum * factor;
    return penalty;
  };
  total.add(
      count,
      [&](int64_t j) {
        typedef typename Vectors<Real>::Type Vector;
        Vector sum = load<Vector>(sums + j);
        const Vector penalty = of(sum, weighted ? load<Vector>(weights + j) : Vector{});
        memcpy(sums + j, &sum, sizeof(sum));
        return penalty;
      },
      [&](int64_t j) { return of(sums[j], weighted ? weights[j] : Real(0)); });
}

// A residual, or a vector of them, is kept, and its slope where this is no multiple of it: returns its penalty.
template <class Real, class Penalize, class Value>
VISGEN_HOST_DEVICE Value keep_residual(Penalize rho, Value residual, Real* residuals, Real* slopes) {
  Value penalty = residual, slope = residual;
  rho.at(residual, penalty, slope);
  memcpy(residuals, &residual, sizeof(residual));
  if constexpr (!Penalize::kProportional) memcpy(slopes, &slope, sizeof(slope));
  return penalty;
}

// The same for a row, and the sum of the penalties.
template <class Real, class Penalize>
void subtract(Penalize rho, const Real* pred, const Real* target, int64_t count, Real* residuals, Real* slopes,
              Total<Real>& total) {
  typedef typename Vectors<Real>::Type Vector;
  total.add(
      count,
      [&](int64_t j) {
        const Vector residual = load<Vector>(pred + j) - load<Vector>(target + j);
        return keep_residual(rho, residual, residuals + j, slopes + j);
      },
      [&](int64_t j) { return keep_residual(rho, pred[j] - target[j], residuals + j, slopes + j); });
}

// The same with weights that vary: residuals become their products with them, and slopes are kept; what has no weight
// is 0.
template <class Real, class Penalize>
void weigh(Penalize rho, const Real* pred, const Real* target, const Real* given, int64_t count, Real* weights,
           Real* products, Real* slopes, Total<Real>& total) {
  const auto of = [&](auto from, auto less, auto weight, int64_t j) {
    const auto residual = weight != 0 ? from - less : decltype(from){}, product = residual * weight;
    auto penalty = residual, slope = residual;
    rho.at(residual, penalty, slope);
    memcpy(weights + j, &weight, sizeof(weight));
    memcpy(products + j, &product, sizeof(product));
    memcpy(slopes + j, &slope, sizeof(slope));
    return penalty * weight;
  };
  total.add(
      count,
      [&](int64_t j) {
        typedef typename Vectors<Real>::Type Vector;
        return of(load<Vector>(pred + j), load<Vector>(target + j), load<Vector>(given + j), j);
      },
      [&](int64_t j) { return of(pred[j], target[j], given[j], j); });
}

}  // namespace visgen::VISGEN_ISA
