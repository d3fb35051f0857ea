// Sorts keys on the device, stably: equal keys keep their order, so that the result is one and the same in every run.
#pragma once

#include <vector>

#include "../ops/tensors.h"

namespace visgen {

// Keys with the place each came from.
struct SortedKeys {
  const uint32_t *keys = nullptr, *places = nullptr;
  std::vector<Tensor> memory;  // lives as long as they do
};

// `keys` are `count` numbers up to `largest`; they are overwritten.
SortedKeys sort_keys(uint32_t* keys, int64_t count, uint32_t largest, const Tensor& like);

}  // namespace visgen
