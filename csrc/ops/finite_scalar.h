// The family `finite_scalar`: what its kernels are told.
#pragma once

#include "code_rows.h"

namespace visgen {

// One column: level k = round(tanh(x + shift)·half − offset) − lowest, which stands at (step·k − origin) / origin.
template <class Real>
struct LevelColumn {
  Real shift, half, offset, lowest, step, origin;
  int32_t levels;
};

template <class Real>
struct Levels {
  bool round_half_up = false;  // floor(value + ½), else to nearest even
  LevelColumn<Real> column[kMaxColumns];

  // The vector of a code, whose first column is the least significant.
  VISGEN_HOST_DEVICE bool decode(int64_t code, int columns, Real* vector) const {
    const bool negative = code < 0;
    for (int j = 0; j < columns; ++j) {
      const int64_t rest = divide(code, column[j].levels), level = code - rest * column[j].levels;
      vector[j] = (level * column[j].step - column[j].origin) / column[j].origin;
      code = rest;
    }
    return code == 0 && !negative;
  }
};

struct FiniteScalarParameters : CodeRows {
  const Levels<double>* levels = nullptr;
  Operand x, quantized;
  int64_t* codes = nullptr;  // [rows]
};

struct FiniteScalarBackwardParameters : CodeRows {
  const Levels<double>* levels = nullptr;
  Operand x, grad_quantized, grad_x;
};

struct FiniteScalarDecodeParameters : DecodedRows<Levels<double>> {};

}  // namespace visgen
