// Activations x·share(x), where the share runs from 0 to 1, and their slopes; once for scalars, vectors and CUDA
// threads.
//
// A small share is computed itself, not as what is left of 1: it keeps its relative precision. Where the share is 0 or
// 1 in the arithmetic's type, x is bounded for it, so that slopes of large numbers are finite.
#pragma once

#include "math.h"

namespace visgen {

enum class Activation : int64_t { gelu_tanh, gelu, silu };  // numbered as in the schemas

namespace VISGEN_ISA {

template <class Value>
struct Share {
  Value value, slope;  // of x: the share itself, and the derivative of x·share
};

// What an instruction set may have an instruction for.
template <class Value>
struct Primitives {
  template <class Real>
  static VISGEN_HOST_DEVICE Value at_most(Value x, Real bound) {
    return x > bound ? Value{} + bound : x;
  }
  template <class Real>
  static VISGEN_HOST_DEVICE Value at_least(Value x, Real bound) {
    return x < bound ? Value{} + bound : x;
  }
  // p·2^n for the n that the last bits of 12582912 + n say. It takes two factors: neither 2^n nor the result need be a
  // normal number.
  static VISGEN_HOST_DEVICE Value scaled(Value p, Value shifted) {
    using Int = typename Lanes<typename WordOfFloat<Value>::Word>::Int;
    const Int exponent = bits_as<Int>(shifted) - 0x4B400000, half = exponent >> 1;
    return p * bits_as<Value>((half + 127) << 23) * bits_as<Value>((exponent - half + 127) << 23);
  }
};

template <class Real, class Value>
VISGEN_HOST_DEVICE Value bounded(Value x, Real bound) {
  return Primitives<Value>::at_least(Primitives<Value>::at_most(x, bound), -bound);
}

// e^−z for |z| up to 170, where `exponential` looks at every argument: infinite above 128·ln 2, and 0 where it is below
// the smallest number. The polynomial is the same.
template <class Value>
VISGEN_HOST_DEVICE Value decay(Value z) {
  const Value shifted = z * -1.44269504f + 12582912.0f, count = shifted - 12582912.0f;
  const Value rest = (-count * 0.693359375f - z) + count * 2.12194440e-4f;
  Value p = 1.381419079e-3f * rest + 8.368913687e-3f;
  p = p * rest + 4.166840719e-2f;
  p = p * rest + 1.666651901e-1f;
  p = p * rest + 4.999999334e-1f;
  p = (p * rest) * rest + rest + 1.0f;
  return Primitives<Value>::scaled(p, shifted);
}
VISGEN_HOST_DEVICE double decay(double z) { return ::exp(-z); }

// The share σ(z) where z = x·factor, of which x·dz/dx = growth. Its own slope σ(z)·(1 − σ(z)) is e^−z·σ(z)².
template <class Real, class Value>
VISGEN_HOST_DEVICE Share<Value> logistic_share(Value z, Value growth) {
  constexpr Real kLarge = sizeof(Real) == 4 ? Real(3e38f) : Real(1e308);  // an infinite one would make 0 NaN
  const Value rest = decay(z), share = Real(1) / (rest + Real(1));
  return {share, share + growth * (Primitives<Value>::at_most(rest, kLarge) * share * share)};
}

// x·σ(x).
template <class Real, class Value>
VISGEN_HOST_DEVICE Share<Value> silu(Value x) {
  const Value z = bounded(x, Real(sizeof(Real) == 4 ? 110 : 800));
  return logistic_share<Real>(z, z);
}

// x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) / 2 = x·σ(2·√(2/π)·(x + 0.044715·x³)).
template <class Real, class Value>
VISGEN_HOST_DEVICE Share<Value> gelu_tanh(Value x) {
  constexpr Real kFirst = Real(1.5957691216057307117598), kThird = Real(0.0713548162726002527);
  const Value c = bounded(x, Real(sizeof(Real) == 4 ? 12 : 24)), square = c * c;
  return logistic_share<Real>(c * (square * kThird + kFirst), c * (square * (3 * kThird) + kFirst));
}

// x·Φ(x) = x·(1 + erf(x/√2)) / 2.
template <class Real>
VISGEN_HOST_DEVICE Share<double> gelu(double x) {
  const double c = bounded(x, 40.0), density = ::exp(c * c * -0.5) * 0.398942280401432677939946;
  const double share = 0.5 * ::erfc(c * -0.707106781186547524400844);
  return {share, share + c * density};
}

// Φ(−z) = exp(−z²/2)·w·P(w − ½), w = 1 / (1 + 0.3·z), P the polynomial whose largest relative error for z up to 14.5 is
// smallest, 2.1e-8.
template <class Real, class Value>
VISGEN_HOST_DEVICE Share<Value> gelu(Value x) {
  const Value c = bounded(x, 14.5f), magnitude = c < 0.0f ? -c : c;
  const Value rest = decay(c * c * 0.5f), w = 1.0f / (magnitude * 0.3f + 1.0f), t = w - 0.5f;
  Value p = -2.062346414e-02f * t + 1.962999813e-02f;
  p = p * t + 3.591763228e-02f;
  p = p * t - 3.646019846e-02f;
  p = p * t - 7.755181193e-02f;
  p = p * t + 2.905650809e-02f;
  p = p * t + 2.220826894e-01f;
  p = p * t + 3.461988270e-01f;
  p = p * t + 3.291589618e-01f;
  p = p * t + 2.219706178e-01f;
  const Value tail = rest * (p * w), share = c < 0.0f ? tail : 1.0f - tail;
  return {share, share + c * (rest * 3.989422804e-1f)};
}

template <Activation kind, class Real, class Value>
VISGEN_HOST_DEVICE Share<Value> share_of(Value x) {
  if constexpr (kind == Activation::gelu_tanh) return gelu_tanh<Real>(x);
  if constexpr (kind == Activation::gelu) return gelu<Real>(x);
  if constexpr (kind == Activation::silu) return silu<Real>(x);
}

}  // namespace VISGEN_ISA
}  // namespace visgen
