// The family `optimize` on one instruction set: each tensor read once and written once, a tile at a time.
#include "../../ops/optimize.h"

#include "../kernels.h"
#include "sums.h"
#include "tile.h"

namespace visgen::VISGEN_ISA {
namespace {

// A tensor without gaps is one sample of one dimension.
Operand flat(const Lists& lists, int64_t tensor, State state) {
  Operand operand;
  operand.data = lists.tensors[tensor].data[state];
  operand.dtype = lists.dtypes[state];
  operand.strides[0] = 1;
  return operand;
}

// A tile that is read, changed and written again.
template <class Real>
struct Changed {
  Changed(const Lists& lists, int64_t tensor, State state, const SampleShape& shape, int64_t begin, int64_t count)
      : operand(flat(lists, tensor, state)), shape(shape), begin(begin), count(count) {
    if (operand.data) values = const_cast<Real*>(load_tile(operand, shape, 0, begin, count, buffer));
  }
  void store() const { store_tile(operand, shape, 0, begin, count, values); }

  Operand operand;
  const SampleShape& shape;
  int64_t begin, count;
  Real* values = nullptr;
  alignas(64) Real buffer[kTile];
};

template <class Real>
void move_tile(const AdamWParameters& p, int64_t tensor, const SampleShape& shape, int64_t begin, int64_t count) {
  const AdamWStep<Real> step(p.factors);
  alignas(64) Real buffer[kTile];
  const Real* __restrict gradient = load_tile(flat(p.lists, tensor, kGradient), shape, 0, begin, count, buffer);
  const Changed<Real> parameter(p.lists, tensor, kParameter, shape, begin, count),
      mean(p.lists, tensor, kMean, shape, begin, count), square(p.lists, tensor, kSquare, shape, begin, count);
  Real* __restrict w = parameter.values, * __restrict m = mean.values, * __restrict v = square.values;
  for (int64_t i = 0; i < count; ++i) step.move(w[i], gradient[i], m[i], v[i]);
  parameter.store(), mean.store(), square.store();
  const Changed<Real> average(p.lists, tensor, kAverage, shape, begin, count);
  if (!average.values) return;
  // The average follows the parameter as it is stored.
  const Real* __restrict stored = load_tile(parameter.operand, shape, 0, begin, count, buffer);
  Real* __restrict a = average.values;
  for (int64_t i = 0; i < count; ++i) step.follow(a[i], stored[i]);
  average.store();
}

// Calls body(tensor, shape, first element, elements) for the tiles of units [first, last).
template <class Parameters, class Body>
void for_each_tile(const Parameters& p, int64_t unit, Body body) {
  const Unit range = unit_at(p.partition, unit);
  for_each_piece(p.lists, range.begin, range.end, [&](int64_t tensor, int64_t begin, int64_t count) {
    SampleShape shape;
    shape.samples = 1;
    shape.elements = shape.sizes[0] = p.lists.first[tensor + 1] - p.lists.first[tensor];
    for (int64_t done = 0; done < count; done += kTile) {
      body(tensor, shape, begin + done, kTile < count - done ? kTile : count - done);
    }
  });
}

template <class Real>
void move(const AdamWParameters& p, int64_t first_unit, int64_t last_unit) {
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    for_each_tile(p, unit, [&](int64_t tensor, const SampleShape& shape, int64_t begin, int64_t count) {
      move_tile<Real>(p, tensor, shape, begin, count);
    });
  }
}

template <class Real>
void add_squares(const GradientNormParameters& p, int64_t first_unit, int64_t last_unit) {
  alignas(64) Real buffer[kTile];
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    double sum = 0;
    for_each_tile(p, unit, [&](int64_t tensor, const SampleShape& shape, int64_t begin, int64_t count) {
      const Real* gradient = load_tile(flat(p.lists, tensor, kGradient), shape, 0, begin, count, buffer);
      sum += dot(gradient, gradient, count);
    });
    p.partial_sums[unit] = sum;
  }
}

}  // namespace

const Loops<AdamWParameters, GradientNormParameters> optimize_kernels = {{move<float>, move<double>},
                                                                         {add_squares<float>, add_squares<double>}};

}  // namespace visgen::VISGEN_ISA
