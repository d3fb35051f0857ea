// How a batch is cut into units of work: ranges of consecutive elements of one sample that either lie within one row of
// coefficients or cover whole rows. The cut depends on sizes alone, never on the number of threads, so that a sum over
// a row is added up in the same order on every machine.
#pragma once

#include <cstdint>

#include "isa.h"

namespace visgen {

struct Partition {
  int64_t samples, elements, row_size;  // elements of a sample and of one row of coefficients
  int64_t unit_size, units_per_row;     // units_per_row is 1 where a unit covers whole rows
  int64_t units_per_sample;

  Partition(int64_t samples, int64_t elements, int64_t row_size, int64_t target)
      : samples(samples),
        elements(elements),
        row_size(row_size),
        unit_size(row_size >= target ? target : row_size * (target / (row_size > 0 ? row_size : 1))),
        units_per_row(row_size >= target ? (row_size + target - 1) / target : 1),
        units_per_sample(elements == 0        ? 0
                         : row_size >= target ? elements / row_size * units_per_row
                                              : (elements - 1) / unit_size + 1) {}

  // Every unit within one row.
  static Partition within_rows(int64_t samples, int64_t elements, int64_t row_size, int64_t target) {
    return Partition(samples, elements, row_size, row_size < target && row_size > 0 ? row_size : target);
  }

  int64_t units() const { return samples * units_per_sample; }
};

struct Unit {
  int64_t sample, begin, end;
};

VISGEN_HOST_DEVICE Unit unit_at(const Partition& partition, int64_t index) {
  const int64_t sample = index / partition.units_per_sample, within = index % partition.units_per_sample;
  int64_t begin = within * partition.unit_size, limit = partition.elements;
  if (partition.units_per_row > 1) {
    const int64_t row = within / partition.units_per_row;
    begin = row * partition.row_size + within % partition.units_per_row * partition.unit_size;
    limit = (row + 1) * partition.row_size;
  }
  return {sample, begin, begin + partition.unit_size < limit ? begin + partition.unit_size : limit};
}

}  // namespace visgen
