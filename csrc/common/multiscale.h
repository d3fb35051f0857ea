// Penalties ρ(m) of mean residuals, and their slopes: for numbers, vectors and CUDA threads.
#pragma once

#include <cmath>

#include "isa.h"

namespace visgen::VISGEN_ISA {

template <class Value>
struct Root;  // of numbers here, of vectors in cpu/isa/multiscale.h
template <>
struct Root<float> {
  static VISGEN_HOST_DEVICE float of(float value) { return sqrtf(value); }
};
template <>
struct Root<double> {
  static VISGEN_HOST_DEVICE double of(double value) { return ::sqrt(value); }
};

struct Squared {
  static constexpr bool kProportional = true;  // the slope is 2m
  template <class Value>
  VISGEN_HOST_DEVICE void at(Value mean, Value& penalty, Value& slope) const {
    penalty = mean * mean;
    slope = mean + mean;
  }
};

struct Absolute {
  static constexpr bool kProportional = false;
  template <class Value>
  VISGEN_HOST_DEVICE void at(Value mean, Value& penalty, Value& slope) const {
    penalty = mean < 0 ? -mean : mean;
    slope = mean > 0 ? Value{} + 1 : mean < 0 ? Value{} - 1 : mean;
  }
};

// √(m² + c²) − c, written as m² / (√(m² + c²) + c) where the difference would lose digits.
template <class Real>
struct PseudoHuber {
  static constexpr bool kProportional = false;
  Real scale, square;
  template <class Value>
  VISGEN_HOST_DEVICE void at(Value mean, Value& penalty, Value& slope) const {
    const Value both = mean * mean + square, length = Root<Value>::of(both), sum = length + scale;
    const Value inverse = Real(1) / (length * sum);
    penalty = both < 4 * square ? (mean * mean) * (length * inverse) : length - scale;
    slope = mean * (sum * inverse);
  }
};

}  // namespace visgen::VISGEN_ISA
