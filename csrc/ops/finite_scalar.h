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

struct FiniteScalarDecodeParameters : DecodedRows {
  const Levels<double>* levels = nullptr;
};

}  // namespace visgen
