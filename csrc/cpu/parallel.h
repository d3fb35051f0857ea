// Spreads the units of a partition over torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "../common/partition.h"

namespace visgen {

template <class Body>
void for_units(const Partition& partition, const Body& body) {
  constexpr int64_t kThreadShare = 32768;  // elements below which another thread costs more than it saves
  const int64_t unit = partition.unit_size > 0 ? partition.unit_size : 1;
  torch::stable::parallel_for(0, partition.units(), (kThreadShare + unit - 1) / unit, body);
}

}  // namespace visgen
