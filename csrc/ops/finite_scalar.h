// The family `finite_scalar`: what its kernels are told.
#pragma once

#include "code_rows.h"

namespace visgen {

// One column of finite scalar quantization: level k = round(tanh(x + shift)·half − offset) − lowest, which stands at
// (step·k − origin) / origin.
template <class Real>
struct LevelColumn {
  Real shift, half, offset, lowest, step, origin;
  int32_t levels;
};

template <class Real>
struct FiniteScalarRows : CodeRows {
  bool round_half_up = false;  // floor(value + ½), else to nearest even
  LevelColumn<Real> column[kMaxColumns];
};

using FiniteScalarParameters = FiniteScalarRows<double>;
static_assert(sizeof(FiniteScalarParameters) <= 4096, "what a kernel may be told");

}  // namespace visgen
