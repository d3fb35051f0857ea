// What rows are modulated with, in the first-level cache.
#pragma once

#include "../../ops/modulate.h"
#include "operand_rows.h"

namespace visgen::VISGEN_ISA {

// Whether these are all one number a row, and no norm is affine.
inline bool is_uniform(const Modulation& p, const Operand (&slots)[kSlots][kTerms]) {
  bool uniform = p.columns > 1 && !slots[kWeight][0].data && !slots[kBias][0].data;
  for (const auto& terms : slots) {
    for (const Operand& operand : terms) uniform = uniform && (!operand.data || column_stride(operand, p.shape) == 0);
  }
  return uniform;
}

// What a row is modulated with, where it is one number its first column alone. It is made again where it is not that of
// the row before.
template <class Real, bool uniform>
class Modulators {
 public:
  static constexpr int kBuffers = 2 + kSlots * kTerms + 3;

  Modulators(const Modulation& p, RowBuffers<Real>& buffers) : p_(p), columns_(uniform ? 1 : p.columns) {
    ones_ = buffers.next(Real(1), p.columns);
    zeros_ = buffers.next(Real(0), p.columns);
    for (auto& terms : memory_) {
      for (Real*& memory : terms) memory = buffers.next();
    }
    scale_ = buffers.next(), factor_ = buffers.next(), offset_ = buffers.next();
  }

  void move_to(const RowPlace& at) {
    bool same = !first_;
    for (int slot = 0; slot < kSlots; ++slot) {
      for (int term = 0; term < kTerms; ++term) {
        if (!p_.slot[slot][term].data) continue;
        const int64_t offset = at.offset(p_.slot[slot][term]);
        same = same && offset == offsets_[slot][term];
        offsets_[slot][term] = offset;
      }
    }
    if (!same) make(at);
    first_ = false;
  }

  // Of a vector of columns, or one.
  template <class Value>
  static VISGEN_HOST_DEVICE Value of(const Real* row, int64_t column) {
    return uniform ? Value{} + row[0] : take<Value>(row + column);
  }

  const Real* ones() const { return ones_; }
  const Real* zeros() const { return zeros_; }
  const Real *gate, *weight, *bias;  // themselves
  const Real* scale;                 // one more than it
  const Real *factor, *offset;       // y = n·factor + offset

 private:
  bool has(int slot) const { return p_.slot[slot][0].data || p_.slot[slot][1].data; }

  const Real* row_of(const Operand& operand, const RowPlace& at, Real* buffer) {
    if constexpr (!uniform) return load_row<Real>(operand, at, buffer);
    visit_floating(operand.dtype, [&]<class Element, DType dtype>() {
      buffer[0] = decode<Real>(static_cast<const Element*>(operand.data)[at.offset(operand)], dtype);
    });
    return buffer;
  }

  const Real* total(int slot, const RowPlace& at, const Real* otherwise) {
    const Real* sum = nullptr;
    for (int term = 0; term < kTerms; ++term) {
      if (!p_.slot[slot][term].data) continue;
      const Real* row = row_of(p_.slot[slot][term], at, memory_[slot][term]);
      if (sum) {
        Real* both = memory_[slot][1];
        for_each_column<Real>(
            p_.columns, [&]<class Value>(int64_t i) { put(both + i, take<Value>(sum + i) + take<Value>(row + i)); });
        row = both;
      }
      sum = row;
    }
    return sum ? sum : otherwise;
  }

  void make(const RowPlace& at) {
    gate = total(kGate, at, ones_);
    weight = total(kWeight, at, ones_);
    bias = total(kBias, at, zeros_);
    scale = ones_;
    if (has(kScale)) {
      const Real* given = total(kScale, at, zeros_);
      for_each_column<Real>(columns_,
                            [&]<class Value>(int64_t i) { put(scale_ + i, take<Value>(given + i) + Real(1)); });
      scale = scale_;
    }
    factor = scale;
    if (has(kWeight)) {
      for_each_column<Real>(columns_, [&]<class Value>(int64_t i) {
        put(factor_ + i, take<Value>(scale + i) * take<Value>(weight + i));
      });
      factor = factor_;
    }
    const Real* shift = total(kShift, at, zeros_);
    offset = shift;
    if (has(kBias)) {
      for_each_column<Real>(columns_, [&]<class Value>(int64_t i) {
        put(offset_ + i, take<Value>(scale + i) * take<Value>(bias + i) + take<Value>(shift + i));
      });
      offset = offset_;
    }
  }

  const Modulation& p_;
  const int64_t columns_;
  Real *ones_, *zeros_, *memory_[kSlots][kTerms], *scale_, *factor_, *offset_;
  int64_t offsets_[kSlots][kTerms] = {};
  bool first_ = true;
};

// Calls body(place) for the rows of a unit.
template <class Body>
void for_each_row(const Modulation& p, int64_t index, Body body) {
  const Unit unit = unit_at(p.partition, index);
  RowPlace at(p.shape, unit.begin);
  for (; at.row() < unit.end; at.next()) body(at);
}

}  // namespace visgen::VISGEN_ISA
