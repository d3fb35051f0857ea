// The family `linear`: what its kernels are told.
#pragma once

#include <cstdint>

namespace visgen {

// Columns of y that lie side by side in a packed weight, [panels, inputs, kPanel]; the last panel ends in zeros.
constexpr int64_t kPanel = 32;

// y[row, o] = Σ_i x[row, i]·weight[o, i] + bias[o], and then the exact GELU if asked for; a unit is a panel.
struct LinearParameters {
  int64_t rows = 0, inputs = 0, outputs = 0;
  bool gelu = false;
  const float *x = nullptr, *weight = nullptr, *bias = nullptr;  // bias may be null
  float* y = nullptr;
  static constexpr bool in_double = false;

  int64_t panels() const { return (outputs + kPanel - 1) / kPanel; }
};

}  // namespace visgen
