// The family `finite_scalar`: what its kernels are told.
#pragma once

#include "code_rows.h"

namespace visgen {

// One column: level k = round(tanh(x + shift)·half − offset) − lowest, which stands at (step·k − origin) / origin.
template <class Real>
struct LevelColumn {
  Real shift, half, offset, lowest, step, origin;
  int32_t levels;

  // The first column of a code is the least significant.
  VISGEN_HOST_DEVICE Real take(int64_t& rest) const {
    const int64_t above = rest < 0 ? rest : divide(rest, levels), level = rest - above * levels;
    rest = above;
    return (level * step - origin) / origin;
  }
};

template <class Real>
struct Levels {
  bool round_half_up = false;  // floor(value + ½), else to nearest even
  LevelColumn<Real> column[kMaxColumns];

  VISGEN_HOST_DEVICE LevelColumn<Real> at(int index, int) const { return column[index]; }
  VISGEN_HOST_DEVICE bool is_code(int64_t rest, int) const { return rest == 0; }
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
