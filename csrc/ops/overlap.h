// Whether operands that are written share memory with others, so that an element would be read after it is written.
#pragma once

#include "../common/layout.h"

namespace visgen {

// The bytes from the first element of an operand to its last.
struct Span {
  const char *begin, *end;
  bool dense, repeats;  // no byte of another between its elements; several elements in one place

  Span(const Operand& operand, const SampleShape& shape) {
    int64_t last = (shape.samples - 1) * operand.sample_stride;
    repeats = shape.samples > 1 && operand.sample_stride == 0;
    for (int d = 0; d < shape.dimensions; ++d) {
      last += (shape.sizes[d] - 1) * operand.strides[d];
      repeats = repeats || (shape.sizes[d] > 1 && operand.strides[d] == 0);
    }
    dense = last + 1 == shape.samples * shape.elements;
    begin = static_cast<const char*>(operand.data);
    end = begin + (last + 1) * size_of(operand.dtype);
  }

  // Of two that skip bytes this cannot be said; they count as apart, as the two halves of a picture's channels are.
  bool meets(const Span& other) const { return begin < other.end && other.begin < end && dense && other.dense; }
};

inline bool same_elements(const Operand& one, const Operand& other, const SampleShape& shape) {
  bool same = one.data == other.data && one.dtype == other.dtype;
  same = same && (shape.samples == 1 || one.sample_stride == other.sample_stride);
  for (int d = 0; d < shape.dimensions; ++d) same = same && one.strides[d] == other.strides[d];
  return same;
}

}  // namespace visgen
