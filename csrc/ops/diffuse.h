// The family `diffuse`: what its kernels are told.
#pragma once

#include "../common/layout.h"
#include "../common/partition.h"

namespace visgen {

struct Diffusion {
  SampleShape shape;
  Partition partition{0, 0, 0, 1};
  bool in_double = false;
  const void* coefficients = nullptr;  // [rows, coefficient_count], in the arithmetic's type
  int coefficient_count = 4;           // (a, b, c, d), or (a, b, c, d, e, f) with an endpoint
  int64_t row_size = 0;                // elements that a row of coefficients is for
  const int64_t* seeds = nullptr;      // [samples]; unused where `noise` is given
  uint64_t stream = 0;
  Operand x, noise, endpoint;
};

struct DiffuseParameters : Diffusion {
  Operand x_t, target;  // outputs; the target may be absent
};

struct DiffuseBackwardParameters : Diffusion {
  Operand grad_x_t, grad_target;              // either may be absent: zero
  Operand grad_x, grad_noise, grad_endpoint;  // outputs, absent where nobody asks
  void* grad_coefficients = nullptr;          // [rows, coefficient_count]; absent where nobody asks
  double* partial_sums = nullptr;             // [units, coefficient_count], where a row takes several units
};

}  // namespace visgen
