// The family `select`: what its kernels are told.
#pragma once

#include <cfloat>
#include <cstring>
#include <type_traits>

#include "../common/layout.h"
#include "../common/partition.h"

namespace visgen {

// One code for each row of logits, which is a unit of the partition.
struct DrawParameters {
  static constexpr int kSettings = 4;  // guidance, temperature, top_k, top_p

  SampleShape shape;
  Partition partition{0, 0, 0, 1};
  bool in_double = false;
  int64_t codes = 0;  // logits of a row
  Operand logits, unconditional;
  const double* settings = nullptr;  // [samples, kSettings]; absent: the same for all, `all`
  double all[kSettings] = {1, 1, 0, 1};
  const int64_t* seeds = nullptr;  // [samples]
  uint64_t stream = 0;
  int64_t* drawn = nullptr;          // [rows]
  float* log_probability = nullptr;  // [rows], or not asked for
};

// How the rows of a sample are drawn from; what is out of range is the nearest legal number.
template <class Real>
struct DrawSettings {
  Real guidance;
  bool guided, bad;  // bad: a number is NaN
  double temperature, top_p;
  int64_t top_k;

  static VISGEN_HOST_DEVICE double within(double value, double least, double most) {
    return !(value > least) ? least : value < most ? value : most;
  }

  VISGEN_HOST_DEVICE DrawSettings(const DrawParameters& p, int64_t sample) {
    const double* row = p.settings ? p.settings + sample * DrawParameters::kSettings : p.all;
    const double most = sizeof(Real) == 8 ? DBL_MAX : static_cast<double>(FLT_MAX);
    guidance = static_cast<Real>(within(row[0], -most, most));
    guided = p.unconditional.data && !(p.settings ? guidance == 1 : row[0] == 1);
    temperature = within(row[1], 0, static_cast<double>(FLT_MAX));
    top_k = static_cast<int64_t>(within(row[2], 1, static_cast<double>(p.codes)));
    top_p = within(row[3], 0, 1);
    bad = row[0] != row[0] || row[1] != row[1] || row[3] != row[3];
  }
};

// The order of floating-point numbers as that of integers: −0 just below 0, NaN beyond the infinities.
template <class Real>
using OrderOf = std::conditional_t<sizeof(Real) == 4, uint32_t, uint64_t>;

template <class Real>
VISGEN_HOST_DEVICE OrderOf<Real> order_of(Real value) {
  OrderOf<Real> bits;
  memcpy(&bits, &value, sizeof(bits));
  constexpr OrderOf<Real> kSign = OrderOf<Real>(1) << (8 * sizeof(Real) - 1);
  return bits & kSign ? ~bits : bits | kSign;
}

template <class Real>
VISGEN_HOST_DEVICE Real number_of(OrderOf<Real> order) {
  constexpr OrderOf<Real> kSign = OrderOf<Real>(1) << (8 * sizeof(Real) - 1);
  const OrderOf<Real> bits = order & kSign ? order ^ kSign : ~order;
  Real value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// The next number above, of those that differ from it; not of NaN or +∞.
template <class Real>
VISGEN_HOST_DEVICE Real next_above(Real value) {
  return number_of<Real>(order_of(value == 0 ? Real(0) : value) + 1);
}

}  // namespace visgen
