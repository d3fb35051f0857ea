// Rows of operands, whatever their layout: where they begin, and the gradients of what they share.
#pragma once

#include "../common/layout.h"
#include "../common/partition.h"

namespace visgen {

// The gradient of what rows share, as the sum over units of rows.
struct SharedGradient {
  SampleShape shape;
  int outer = 0;
  bool in_double = false;
  int64_t columns = 1;
  int64_t groups = 1, members = 1;  // sums, and runs of rows in each of them
  int64_t units_per_run = 1, unit_stride = 0;
  const double* partial_sums = nullptr;
  Operand gradient;
};

// A member of a group: the number of its run of rows, and where the group's gradient is.
struct Member {
  int64_t run, offset;
};

VISGEN_HOST_DEVICE Member member_at(const SharedGradient& p, int64_t group, int64_t member) {
  Member at{0, 0};
  int64_t place = 1;
  for (int d = p.outer - 1; d >= 0; --d) {
    const int64_t size = p.shape.sizes[d];
    int64_t& rest = p.gradient.strides[d] ? group : member;
    const int64_t outer = divide(rest, size), index = rest - outer * size;
    rest = outer;
    at.run += index * place;
    at.offset += index * p.gradient.strides[d];
    place *= size;
  }
  return at;
}

// The first element of a row.
VISGEN_HOST_DEVICE int64_t row_offset(const Operand& operand, const SampleShape& shape, int64_t row) {
  int64_t offset = 0;
  for (int d = shape.dimensions - 2; d > 0; --d) {
    const int64_t outer = divide(row, shape.sizes[d]);
    offset += (row - outer * shape.sizes[d]) * operand.strides[d];
    row = outer;
  }
  return shape.dimensions > 1 ? offset + row * operand.strides[0] : 0;
}

VISGEN_HOST_DEVICE int64_t column_stride(const Operand& operand, const SampleShape& shape) {
  return operand.strides[shape.dimensions - 1];
}

}  // namespace visgen
