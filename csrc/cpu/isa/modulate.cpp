// The family `modulate` on one instruction set: row by row, in the first-level cache.
//
// In memory, counted in tensors of x's size: a gated residual and its norm read 2 and write 2, their gradients read 4
// and write 2. A number costs some 10 operations forward, 30 backward.
#include "modulate.h"

#include "../kernels.h"

namespace visgen::VISGEN_ISA {
namespace {

template <class Real>
class Forward {
 public:
  explicit Forward(const ModulateParameters& p)
      : p_(p), buffers_(Modulators<Real>::kBuffers + 3, p.columns), modulators_(p, buffers_) {
    for (Real*& buffer : buffer_) buffer = buffers_.next();
  }

  void run(int64_t unit) {
    for_each_row(p_, unit, [&](const RowPlace& at) { run_row(at); });
  }

 private:
  void run_row(const RowPlace& at) {
    const int64_t columns = p_.columns;
    modulators_.move_to(at);
    const Real* r = p_.branch.data ? residual(at) : load_row(p_.x, at, buffer_[0]);
    const double mean = p_.is_rms ? 0 : mean_of_row(r, columns);
    const Real centre = static_cast<Real>(mean);
    const double squares = squares_about(centre, r, columns) / columns,
                 variance = squares - (mean - centre) * (mean - centre);
    const Real inverse = static_cast<Real>(1 / __builtin_sqrt(variance + p_.eps));
    if (p_.mean) static_cast<Real*>(p_.mean)[at.row()] = centre;
    static_cast<Real*>(p_.inverse_deviation)[at.row()] = inverse;
    Real* y = row_for_output(p_.y, at, buffer_[1]);
    for_each_column<Real>(columns,
                          [&, factor = modulators_.factor, offset = modulators_.offset]<class Value>(int64_t i) {
                            const Value normed = (take<Value>(r + i) - centre) * inverse;
                            put(y + i, normed * take<Value>(factor + i) + take<Value>(offset + i));
                          });
    store_row(p_.y, at, y);
  }

  // As it is stored: rounded.
  const Real* residual(const RowPlace& at) {
    const Real *x = load_row(p_.x, at, buffer_[0]), *branch = load_row(p_.branch, at, buffer_[1]),
               *gate = modulators_.gate;
    Real* sum = row_for_output(p_.residual, at, buffer_[2]);
    for_each_column<Real>(p_.columns, [&]<class Value>(int64_t i) {
      put(sum + i, take<Value>(x + i) + take<Value>(gate + i) * take<Value>(branch + i));
    });
    store_row(p_.residual, at, sum);
    return load_row(p_.residual, at, buffer_[0]);
  }

  const ModulateParameters& p_;
  RowBuffers<Real> buffers_;
  Modulators<Real> modulators_;
  Real* buffer_[3];
};

template <class Real>
class Backward {
 public:
  explicit Backward(const ModulateBackwardParameters& p)
      : p_(p), buffers_(Modulators<Real>::kBuffers + 6 + 2 * kSlots, p.columns), modulators_(p, buffers_) {
    for (Real*& buffer : buffer_) buffer = buffers_.next();
    for (int slot = 0; slot < kSlots; ++slot) {
      own_memory_[slot] = buffers_.next();
      Real* sums = buffers_.next(Real(0), p.columns);
      sums_[slot] = p.sum_of[slot] >= 0 ? sums : nullptr;
    }
  }

  void run(int64_t unit) {
    double* sums = p_.partial_sums + unit * p_.sums * p_.columns;
    for (int64_t i = 0; i < p_.sums * p_.columns; ++i) sums[i] = 0;
    int rows = 0;
    for_each_row(p_, unit, [&](const RowPlace& at) {
      run_row(at);
      if (++rows % kRowsOfSum == 0) flush(sums);
    });
    flush(sums);
  }

 private:
  static constexpr int kRowsOfSum = 4;  // added up in their own type

  void flush(double* sums) {
    for (int slot = 0; slot < kSlots; ++slot) {
      if (!sums_[slot]) continue;
      add_row(sums_[slot], p_.columns, sums + p_.sum_of[slot] * p_.columns);
      memset(sums_[slot], 0, p_.columns * sizeof(Real));
    }
  }

  // Where a row's own contribution to a slot is made, null where no gradient is of one row alone.
  Real* own_row(int slot, const RowPlace& at) {
    for (int term = 0; term < kTerms; ++term) {
      const Operand& gradient = p_.gradient[slot][term];
      if (gradient.data && !p_.is_shared[slot][term]) return row_for_output(gradient, at, own_memory_[slot]);
    }
    return nullptr;
  }

  void run_row(const RowPlace& at) {
    modulators_.move_to(at);
    Real* own[kSlots];
    for (int slot = 0; slot < kSlots; ++slot) own[slot] = own_row(slot, at);
    const int64_t columns = p_.columns;
    const Real *zeros = modulators_.zeros(), *ones = modulators_.ones();
    const Real *factor = modulators_.factor, *gate = modulators_.gate, *scale = modulators_.scale;
    const Real *weight = modulators_.weight, *bias = modulators_.bias;
    const Real* r = load_row(p_.residual, at, buffer_[0]);
    const Real* g = p_.grad_y.data ? load_row(p_.grad_y, at, buffer_[1]) : zeros;
    const Real* added = p_.grad_residual.data ? load_row(p_.grad_residual, at, buffer_[2]) : zeros;
    const Real* branch = p_.branch.data ? load_row(p_.branch, at, buffer_[3]) : zeros;
    const Real centre = p_.mean ? static_cast<const Real*>(p_.mean)[at.row()] : Real(0);
    const Real inverse = static_cast<const Real*>(p_.inverse_deviation)[at.row()];
    double sums[2];
    sum_columns<2, Real>(columns, sums, [&]<class Value>(int64_t i, Value(&values)[2]) {
      values[0] = take<Value>(g + i) * take<Value>(factor + i);
      values[1] = values[0] * ((take<Value>(r + i) - centre) * inverse);
    });
    const Real mean = p_.is_rms ? Real(0) : static_cast<Real>(sums[0] / columns);
    const Real slope = static_cast<Real>(sums[1] / columns);
    const Real spread = columns == 1 && !p_.is_rms ? Real(0) : inverse;  // one number is its mean, whatever it is
    Real* into_x = p_.grad_x.data ? row_for_output(p_.grad_x, at, buffer_[4]) : nullptr;
    Real* into_branch = p_.grad_branch.data ? row_for_output(p_.grad_branch, at, buffer_[5]) : nullptr;
    const bool is_affine = weight != ones || bias != zeros;
    for_each_column<Real>(columns, [&]<class Value>(int64_t i) {
      const auto give = [&](int slot, Value value) {
        if (own[slot]) put(own[slot] + i, value);
        if (sums_[slot]) put(sums_[slot] + i, take<Value>(sums_[slot] + i) + value);
      };
      const Value normed = (take<Value>(r + i) - centre) * inverse, into_y = take<Value>(g + i);
      const Value into_r = (into_y * take<Value>(factor + i) - mean - normed * slope) * spread + take<Value>(added + i);
      if (into_x) put(into_x + i, into_r);
      if (into_branch) put(into_branch + i, take<Value>(gate + i) * into_r);
      give(kGate, into_r * take<Value>(branch + i));
      give(kShift, into_y);
      if (!is_affine) return give(kScale, into_y * normed);
      give(kScale, into_y * (normed * take<Value>(weight + i) + take<Value>(bias + i)));
      const Value into_affine = into_y * take<Value>(scale + i);
      give(kWeight, into_affine * normed);
      give(kBias, into_affine);
    });
    store_row(p_.grad_x, at, into_x);
    store_row(p_.grad_branch, at, into_branch);
    for (int slot = 0; slot < kSlots; ++slot) store_own(slot, at, own[slot]);
  }

  void store_own(int slot, const RowPlace& at, const Real* row) {
    for (int term = 0; term < kTerms; ++term) {
      const Operand& gradient = p_.gradient[slot][term];
      if (!gradient.data || p_.is_shared[slot][term]) continue;
      if (at.stride(gradient)) {
        store_row(gradient, at, row);
      } else {
        visit_floating(gradient.dtype, [&]<class Stored, DType dtype>() {
          Stored* out = static_cast<Stored*>(gradient.data) + at.offset(gradient);
          encode(static_cast<Real>(sum_of_row(row, p_.columns)), *out, dtype);
        });
      }
    }
  }

  const ModulateBackwardParameters& p_;
  RowBuffers<Real> buffers_;
  Modulators<Real> modulators_;
  Real *buffer_[6], *own_memory_[kSlots], *sums_[kSlots];
};

template <class Real>
void forward(const ModulateParameters& p, int64_t first_unit, int64_t last_unit) {
  Forward<Real> rows(p);
  for (int64_t unit = first_unit; unit < last_unit; ++unit) rows.run(unit);
}

template <class Real>
void backward(const ModulateBackwardParameters& p, int64_t first_unit, int64_t last_unit) {
  Backward<Real> rows(p);
  for (int64_t unit = first_unit; unit < last_unit; ++unit) rows.run(unit);
}

template <class Real>
void add_up(const ModulationSum& p, int64_t first_group, int64_t last_group) {
  const Scratch memory(p.columns * sizeof(double));
  double* sums = memory.as<double>();
  const int64_t stride = column_stride(p.gradient, p.shape);
  for (int64_t group = first_group; group < last_group; ++group) {
    for (int64_t i = 0; i < p.columns; ++i) sums[i] = 0;
    for (int64_t member = 0; member < p.members; ++member) {
      const double* part = p.partial_sums + member_at(p, group, member).run * p.units_per_run * p.unit_stride;
      for (int64_t unit = 0; unit < p.units_per_run; ++unit, part += p.unit_stride) add_row(part, p.columns, sums);
    }
    visit_floating(p.gradient.dtype, [&]<class Stored, DType dtype>() {
      Stored* out = static_cast<Stored*>(p.gradient.data) + member_at(p, group, 0).offset;
      if (stride) {
        for (int64_t i = 0; i < p.columns; ++i) encode(static_cast<Real>(sums[i]), out[i * stride], dtype);
      } else {
        encode(static_cast<Real>(sum_of_row(sums, p.columns)), *out, dtype);
      }
    });
  }
}

}  // namespace

const Loops<ModulateParameters, ModulateBackwardParameters, ModulationSum> modulate_kernels = {
    {forward<float>, forward<double>}, {backward<float>, backward<double>}, {add_up<float>, add_up<double>}};

}  // namespace visgen::VISGEN_ISA
