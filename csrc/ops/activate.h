// The family `activate`: what its kernels are told.
#pragma once

#include "../common/activations.h"
#include "operand_rows.h"

namespace visgen {

// y = a(x + bias), or a(gate + its bias)·(value + its bias) where x has two halves: the first of two is the gate.
struct ActivatedRows {
  SampleShape shape;  // of y. Without a bias all of it may be one row.
  Partition partition{0, 0, 0, 1};
  bool in_double = false, is_gated = false;
  Activation kind = Activation::gelu_tanh;
  int64_t columns = 1, rows = 0;
  Operand x[2], bias[2];  // the second is absent where nothing is gated
};

struct ActivateParameters : ActivatedRows {
  Operand y;
};

// The gradient of the bias is added up in double: first for each unit, of whole rows, then over the units.
struct ActivateBackwardParameters : ActivatedRows {
  Operand grad_y;
  Operand grad_x[2], grad_bias[2];  // outputs, absent where nobody asks
  double* partial_sums = nullptr;   // [units, 1 or 2, columns]
};

// Calls call<activation, whether x has two halves>() as constants.
template <class Call>
void choose_activation(const ActivatedRows& p, Call call) {
  const auto choose = [&]<Activation kind>() {
    p.is_gated ? call.template operator()<kind, true>() : call.template operator()<kind, false>();
  };
  if (p.kind == Activation::gelu_tanh) return choose.template operator()<Activation::gelu_tanh>();
  if (p.kind == Activation::gelu) return choose.template operator()<Activation::gelu>();
  choose.template operator()<Activation::silu>();
}

}  // namespace visgen
