// What a tile of the loss reads: pieces of it, its target that is made of noise, its weight, and the tile after it.
#pragma once

#include <initializer_list>

#include "../../ops/multiscale.h"
#include "diffuse.h"
#include "multiscale.h"
#include "stream.h"

namespace visgen::VISGEN_ISA {

// Calls body(first element in the sample, first row, first column, rows, columns) for pieces of up to kTile elements
// that follow one another in the sample.
template <class Body>
void for_each_piece(const MultiscaleParameters& p, const Region& at, Body body) {
  const int64_t first = (at.plane * p.height + at.row) * p.width + at.column;
  const int64_t most_rows = at.columns == p.width && at.columns < kTile ? kTile / at.columns : 1;
  for (int64_t y = 0; y < at.rows; y += most_rows) {
    const int64_t rows = at.rows - y < most_rows ? at.rows - y : most_rows;
    for (int64_t x = 0; x < at.columns; x += kTile) {
      const int64_t columns = at.columns - x < kTile ? at.columns - x : kTile;
      body(first + y * p.width + x, y, x, rows, columns);
    }
  }
}

template <class Real>
struct Buffers {
  alignas(64) Real pred[kTile], target[kTile], x[kTile], endpoint[kTile], noise[kTile + kGroup], out[kTile];
  PhiloxKey key{0};  // of the sample
};

// Calls body(place, vector of the target) for the commonest target: of contiguous float32, noise from seeds, one row of
// coefficients a sample, no endpoint. Works through whole groups, and returns how many elements those are.
template <class Body>
int64_t for_each_target_vector(const MultiscaleParameters& p, const PhiloxKey& key, int64_t sample, int64_t begin,
                               int64_t count, Body body) {
  if (kVectorBytes < 64 || p.target.data || p.row_size != p.shape.elements || p.noise.data || p.endpoint.data ||
      begin % 4 != 0 || !usable_in_place<float>(p.x, p.shape)) {
    return 0;
  }
  const float* c = static_cast<const float*>(p.coefficients) + sample * p.coefficient_count;
  const float* x = static_cast<const float*>(p.x.data) + sample * p.x.sample_stride + begin;
  count = count / kGroup * kGroup;
  for_each_normal_vector(key, p.stream, begin, count,
                         [&](int64_t at, FloatVector z) { body(at, c[2] * load<FloatVector>(x + at) + c[3] * z); });
  return count;
}

template <class Real>
const Real* target_tile(const MultiscaleParameters& p, int64_t sample, int64_t begin, int64_t count,
                        Buffers<Real>& buffers) {
  if (p.target.data) return load_tile(p.target, p.shape, sample, begin, count, buffers.target);
  int64_t done = 0;
  if constexpr (sizeof(Real) == 4) {
    done = for_each_target_vector(p, buffers.key, sample, begin, count, [&](int64_t at, FloatVector target) {
      memcpy(buffers.target + at, &target, sizeof(target));
    });
  }
  if (done == count) return buffers.target;
  begin += done, count -= done;
  Real* target = buffers.target + done;
  const Real* z = noise_tile(p, sample, begin, count, buffers.noise);
  const Real* x = load_tile(p.x, p.shape, sample, begin, count, buffers.x);
  const Real* endpoint =
      p.endpoint.data ? load_tile(p.endpoint, p.shape, sample, begin, count, buffers.endpoint) : nullptr;
  for_each_row(p, sample, begin, count, [&](int64_t row, int64_t at, int64_t length) {
    const Real* c = static_cast<const Real*>(p.coefficients) + row * p.coefficient_count;
    combine(c[2], x + at, c[3], z + at, target + at, length);
    if (endpoint) add_scaled(c[5], endpoint + at, target + at, length);
  });
  return buffers.target;
}

// A weight that does not vary within a plane.
template <class Real>
Real weight_of_plane(const MultiscaleParameters& p, const Region& at) {
  Real weight = 1;
  const int64_t first = at.plane * p.height * p.width;
  if (p.weight.data) weight = *load_tile(p.weight, p.shape, at.sample, first, 1, &weight);
  return weight;
}

// What the next tile reads, and writes unless past the cache, brought there some lines at a time while this tile is
// worked on: its passes over the first-level cache would leave memory idle. That is worth it for large operands whose
// rows have no gaps, or whose planes alternate from element to element: such tiles come together.
template <class Real>
class NextTile {
 public:
  explicit NextTile(const MultiscaleParameters& p) : p_(p), planes_(p.tiles.planes_first ? p.planes : 1) {
    const int last = p.shape.dimensions - 1;
    if (!is_beyond_cache(p.shape, kArithmetic<Real>) || last != (planes_ > 1)) return;
    for (const Operand* operand : {&p.pred, &p.target, &p.x, &p.gradient}) {
      if (operand == &p.gradient && is_streamed<Real>(p.gradient, p.shape, p.pred)) continue;
      if (operand->data && operand->strides[last] == planes_) operands_[count_++] = operand;
    }
  }

  // It comes after the tile `at`, which is `unit`, if that is before the end of the units.
  void aim(const Region& at, int64_t unit, int64_t end) {
    if (planes_ > 1 && at.plane > 0) return;
    const bool is_last = unit + planes_ >= end;
    const Region next = region_at(p_, is_last ? unit : unit + planes_);
    const int64_t plane = planes_ > 1 ? 0 : next.plane;
    const int64_t first = ((plane * p_.height + next.row) * p_.width + next.column) * planes_;
    for (int i = 0; i < count_; ++i) {
      const int64_t bytes = size_of(operands_[i]->dtype);
      const char* data = static_cast<const char*>(operands_[i]->data);
      ahead_[i].aim(data + (next.sample * operands_[i]->sample_stride + first) * bytes, is_last ? 0 : next.rows,
                    next.columns * planes_ * bytes, p_.width * planes_ * bytes);
    }
  }

  void bring(int64_t elements) {
    for (int i = 0; i < count_; ++i) ahead_[i].bring(elements * size_of(operands_[i]->dtype));
  }

 private:
  const MultiscaleParameters& p_;
  int64_t planes_;  // that come together
  const Operand* operands_[3];
  Ahead ahead_[3];
  int count_ = 0;
};

}  // namespace visgen::VISGEN_ISA
