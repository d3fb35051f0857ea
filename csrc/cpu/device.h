// The CPU as a Device (common/registration.h): this machine's loops, over torch's threads.
#pragma once

#include "../common/partition.h"
#include "../ops/tensors.h"
#include "kernels.h"
#include "parallel.h"

namespace visgen {

constexpr int64_t kUnit = 16384;  // elements; several units make a thread's share

// Units of so many multiplications that make a thread's share.
inline int64_t units_of_share(int64_t work_of_unit) {
  constexpr int64_t kThreadShare = 65536;  // below which another thread costs more than it saves
  return kThreadShare / (work_of_unit + 1) + 1;
}

template <class Parameters>
void run_loop(const Parameters& p, int64_t units, int64_t units_of_share) {
  const Loop<Parameters>& loop = kernels();
  const auto function = p.in_double ? loop.in_double : loop.in_float;
  parallel_for(0, units, units_of_share, [&](int64_t first, int64_t last) { function(p, first, last); });
}

template <class Parameters>
void run_units(const Parameters& p) {
  constexpr int64_t kThreadShare = 32768;  // elements
  const int64_t unit = p.partition.unit_size > 0 ? p.partition.unit_size : 1;
  run_loop(p, p.partition.units(), (kThreadShare + unit - 1) / unit);
}

// For the structs of parameters whose partition is cut already.
struct OnCpu {
  template <class Parameters>
  static void run(const Parameters& p, const Tensor&) {
    run_units(p);
  }
};

}  // namespace visgen
