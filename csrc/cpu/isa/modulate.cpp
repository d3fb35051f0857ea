// The family `modulate` on one instruction set: row by row, in the first-level cache.
//
// In memory, counted in tensors of x's size: a gated residual and its norm read 2 and write 2, their gradients read 4
// and write 2. A number costs some 10 operations forward, 30 backward.
#include "modulate.h"

#include "../kernels.h"

namespace visgen::VISGEN_ISA {
namespace {

// Rows are of type Stored, and lie ready; others come as Real, by buffers.
template <class Real, class Stored, bool uniform>
class Forward {
 public:
  using Modulator = Modulators<Real, uniform>;

  explicit Forward(const ModulateParameters& p)
      : p_(p),
        buffers_(Modulator::kBuffers + 3, p.columns),
        modulators_(p, buffers_),
        streams_residual_(streams_rows<Stored>(p.residual, p.shape)),
        streams_y_(streams_rows<Stored>(p.y, p.shape)) {
    for (Real*& buffer : buffer_) buffer = buffers_.next();
  }

  void run(int64_t unit) {
    for_each_row(p_, unit, [&](const RowPlace& at) { run_row(at); });
  }

 private:
  void run_row(const RowPlace& at) {
    const int64_t columns = p_.columns;
    modulators_.move_to(at);
    const Stored* r = p_.branch.data ? residual(at) : load_row<Stored>(p_.x, at, buffer_[0]);
    const double mean = p_.is_rms ? 0 : mean_of_row<Real>(r, columns);
    const Real centre = static_cast<Real>(mean);
    const double squares = squares_about(centre, r, columns) / columns;
    const double variance = squares - (mean - centre) * (mean - centre);
    const Real inverse = static_cast<Real>(1 / __builtin_sqrt(variance + p_.eps));
    if (p_.mean) static_cast<Real*>(p_.mean)[at.row()] = centre;
    static_cast<Real*>(p_.inverse_deviation)[at.row()] = inverse;
    const OutputRow<Stored> y{row_for_output<Stored>(p_.y, at, buffer_[1]), streams_y_};
    const OutputRow<Stored> sum{streams_residual_ ? row_for_output<Stored>(p_.residual, at, buffer_[2]) : nullptr,
                                true};
    const Real *factor = modulators_.factor, *offset = modulators_.offset;
    for_each_column<Real>(columns, [=]<class Value>(int64_t i) {
      const Value normed = (take<Value>(r + i) - centre) * inverse;
      y.put_at(i, normed * Modulator::template of<Value>(factor, i) + Modulator::template of<Value>(offset, i));
      if (sum.row) sum.put_at(i, take<Value>(r + i));
    });
    store_row(p_.y, at, y.row);
  }

  // As it is stored: rounded. What is streamed stays in a buffer until the last time that it is read.
  const Stored* residual(const RowPlace& at) {
    const Stored* x = load_row<Stored>(p_.x, at, buffer_[0]);
    const Stored* branch = load_row<Stored>(p_.branch, at, buffer_[1]);
    const Real* gate = modulators_.gate;
    Stored* sum =
        streams_residual_ ? reinterpret_cast<Stored*>(buffer_[2]) : row_for_output<Stored>(p_.residual, at, buffer_[2]);
    for_each_column<Real>(p_.columns, [=]<class Value>(int64_t i) {
      put(sum + i, take<Value>(x + i) + Modulator::template of<Value>(gate, i) * take<Value>(branch + i));
    });
    if (streams_residual_) return sum;
    store_row(p_.residual, at, sum);
    return load_row<Stored>(p_.residual, at, buffer_[0]);
  }

  const ModulateParameters& p_;
  RowBuffers<Real> buffers_;
  Modulator modulators_;
  const bool streams_residual_, streams_y_;
  Real* buffer_[3];
};

template <class Real, class Stored, bool uniform>
class Backward {
 public:
  using Modulator = Modulators<Real, uniform>;

  explicit Backward(const ModulateBackwardParameters& p)
      : p_(p),
        buffers_(Modulator::kBuffers + 7 + 2 * kSlots, p.columns),
        modulators_(p, buffers_),
        streams_x_(streams_rows<Stored>(p.grad_x, p.shape)),
        streams_branch_(streams_rows<Stored>(p.grad_branch, p.shape)) {
    for (Real*& buffer : buffer_) buffer = buffers_.next();
    for (int slot = 0; slot < kSlots; ++slot) {
      own_memory_[slot] = buffers_.next();
      Real* sums = buffers_.next(Real(0), p.columns);
      sums_[slot] = p.sum_of[slot] >= 0 ? sums : nullptr;
      for (int term = 0; term < kTerms; ++term) {
        streams_[slot][term] = streams_rows<Real>(p.gradient[slot][term], p.shape);
      }
    }
  }

  void run(int64_t unit) {
    unit_sums_ = p_.partial_sums + unit * p_.sums * p_.columns;
    for (int64_t i = 0; i < p_.sums * p_.columns; ++i) unit_sums_[i] = 0;
    int rows = 0;
    for_each_row(p_, unit, [&](const RowPlace& at) {
      run_row(at);
      if (++rows % kRowsOfSum == 0) flush();
    });
    flush();
  }

 private:
  static constexpr int kRowsOfSum = 8;  // added up in their own type

  double* sums_of_unit(int slot) const { return unit_sums_ + p_.sum_of[slot] * p_.columns; }

  void flush() {
    for (int slot = 0; slot < kSlots; ++slot) {
      if (!sums_[slot]) continue;
      add_row(sums_[slot], p_.columns, sums_of_unit(slot));
      memset(sums_[slot], 0, p_.columns * sizeof(Real));
    }
  }

  // Where contributions of rows to a slot go: a row of the slot's own, a sum over rows; null where nobody asks. Sums of
  // the columns behind the last vector are in double, since a row may have no others.
  struct Target {
    OutputRow<Real> own;
    Real* sums;
    double* rest;

    // A loop for each: a few loads more, and no branch within.
    template <class Make>
    void give(int64_t columns, Make make) const {
      if (own.row) {
        const OutputRow<Real> to = own;
        for_each_column<Real>(columns,
                              [=]<class Value>(int64_t i) { to.put_at(i, make.template operator()<Value>(i)); });
      }
      if (!sums) return;
      constexpr int64_t kCount = sizeof(typename RowVectorOf<Real>::Type) / sizeof(Real);
      const int64_t whole = columns / kCount * kCount;
      for_each_column<Real>(whole, [=, sums = sums]<class Value>(int64_t i) {
        put(sums + i, take<Value>(sums + i) + make.template operator()<Value>(i));
      });
      for (int64_t i = whole; i < columns; ++i) rest[i] += make.template operator()<double>(i);
    }
  };

  Target target(int slot, const RowPlace& at) {
    Target target{{}, sums_[slot], sums_[slot] ? sums_of_unit(slot) : nullptr};
    if (uniform && slot != kGate) return target;  // the row's gradient is in numbers_
    for (int term = 0; term < kTerms; ++term) {
      const Operand& gradient = p_.gradient[slot][term];
      if (!gradient.data || p_.is_shared[slot][term]) continue;
      target.own = {row_for_output<Real>(gradient, at, own_memory_[slot]), streams_[slot][term]};
      break;
    }
    return target;
  }

  void run_row(const RowPlace& at) {
    modulators_.move_to(at);
    const int64_t columns = p_.columns;
    const Stored* zeros = reinterpret_cast<const Stored*>(modulators_.zeros());
    const Stored* r = load_row<Stored>(p_.residual, at, buffer_[0]);
    const Stored* g = p_.grad_y.data ? load_row<Stored>(p_.grad_y, at, buffer_[1]) : zeros;
    const Stored* added = p_.grad_residual.data ? load_row<Stored>(p_.grad_residual, at, buffer_[2]) : zeros;
    const Stored* branch = p_.branch.data ? load_row<Stored>(p_.branch, at, buffer_[3]) : zeros;
    const Real* factor = modulators_.factor;
    const Real centre = p_.mean ? static_cast<const Real*>(p_.mean)[at.row()] : Real(0);
    const Real inverse = static_cast<const Real*>(p_.inverse_deviation)[at.row()];
    const auto next_r = ahead_of(r, p_.residual, p_.shape), next_g = ahead_of(g, p_.grad_y, p_.shape);
    double sums[2];
    sum_columns<2, Real>(columns, sums, [=]<class Value>(int64_t i, Value(&values)[2]) {
      next_r.ask(i), next_g.ask(i);
      values[0] = take<Value>(g + i);
      if (!uniform) values[0] *= Modulator::template of<Value>(factor, i);
      values[1] = values[0] * ((take<Value>(r + i) - centre) * inverse);
    });
    numbers_[kShift] = sums[0], numbers_[kScale] = sums[1];
    const double share = uniform ? factor[0] / static_cast<double>(columns) : 1.0 / columns;
    const Real mean = p_.is_rms ? Real(0) : static_cast<Real>(sums[0] * share);
    const Real slope = static_cast<Real>(sums[1] * share);
    const Real spread = columns == 1 && !p_.is_rms ? Real(0) : inverse;  // one number is its mean, whatever it is
    OutputRow<Stored> into_x{nullptr, streams_x_}, into_branch{nullptr, streams_branch_};
    if (p_.grad_x.data) into_x.row = row_for_output<Stored>(p_.grad_x, at, buffer_[4]);
    if (p_.grad_branch.data) into_branch.row = row_for_output<Stored>(p_.grad_branch, at, buffer_[5]);
    const auto next_added = ahead_of(added, p_.grad_residual, p_.shape);
    Real* into_r = buffer_[6];
    for_each_column<Real>(columns, [=]<class Value>(int64_t i) {
      const Value normed = (take<Value>(r + i) - centre) * inverse;
      const Value into_norm = take<Value>(g + i) * Modulator::template of<Value>(factor, i);
      const Value result = (into_norm - mean - normed * slope) * spread + take<Value>(added + i);
      next_added.ask(i);
      put(into_r + i, result);
      if (into_x.row) into_x.put_at(i, result);
    });
    if (p_.branch.data) give_branch(at, branch, into_r, into_branch);
    give_modulation(at, r, g, centre, inverse);
    store_row(p_.grad_x, at, into_x.row);
    store_row(p_.grad_branch, at, into_branch.row);
    for (int slot = 0; slot < kSlots; ++slot) store_own(slot, at);
  }

  void give_branch(const RowPlace& at, const Stored* branch, const Real* into_r, const OutputRow<Stored>& into_branch) {
    const auto next_branch = ahead_of(branch, p_.branch, p_.shape);
    if (into_branch.row) {
      const Real* gate = modulators_.gate;
      for_each_column<Real>(p_.columns, [=]<class Value>(int64_t i) {
        next_branch.ask(i);
        into_branch.put_at(i, Modulator::template of<Value>(gate, i) * take<Value>(into_r + i));
      });
    }
    target(kGate, at).give(
        p_.columns, [=]<class Value>(int64_t i) -> Value { return take<Value>(into_r + i) * take<Value>(branch + i); });
  }

  void give_modulation(const RowPlace& at, const Stored* r, const Stored* g, Real centre, Real inverse) {
    const int64_t columns = p_.columns;
    const auto into_y = [=]<class Value>(int64_t i) -> Value { return take<Value>(g + i); };
    const auto normed = [=]<class Value>(int64_t i) -> Value { return (take<Value>(r + i) - centre) * inverse; };
    target(kShift, at).give(columns, into_y);
    if (modulators_.weight == modulators_.ones() && modulators_.bias == modulators_.zeros()) {
      target(kScale, at).give(columns, [=]<class Value>(int64_t i) -> Value {
        return into_y.template operator()<Value>(i) * normed.template operator()<Value>(i);
      });
      return;
    }
    const Real *scale = modulators_.scale, *weight = modulators_.weight, *bias = modulators_.bias;
    const auto of = []<class Value>(const Real* row, int64_t i) { return Modulator::template of<Value>(row, i); };
    target(kScale, at).give(columns, [=]<class Value>(int64_t i) -> Value {
      const Value affine = normed.template operator()<Value>(i) * of.template operator()<Value>(weight, i);
      return into_y.template operator()<Value>(i) * (affine + of.template operator()<Value>(bias, i));
    });
    target(kWeight, at).give(columns, [=]<class Value>(int64_t i) -> Value {
      const Value into_affine = into_y.template operator()<Value>(i) * of.template operator()<Value>(scale, i);
      return into_affine * normed.template operator()<Value>(i);
    });
    target(kBias, at).give(columns, [=]<class Value>(int64_t i) -> Value {
      return into_y.template operator()<Value>(i) * of.template operator()<Value>(scale, i);
    });
  }

  void store_own(int slot, const RowPlace& at) {
    const Real* row = target(slot, at).own.row;
    for (int term = 0; term < kTerms; ++term) {
      const Operand& gradient = p_.gradient[slot][term];
      if (!gradient.data || p_.is_shared[slot][term]) continue;
      if (at.stride(gradient)) {
        Real* place = row_for_output<Real>(gradient, at, own_memory_[slot]);
        if (place != row) memcpy(place, row, p_.columns * sizeof(Real));
        store_row(gradient, at, place);
      } else {
        visit_floating(gradient.dtype, [&]<class Element, DType dtype>() {
          Element* out = static_cast<Element*>(gradient.data) + at.offset(gradient);
          encode(static_cast<Real>(row ? sum_of_row(row, p_.columns) : numbers_[slot]), *out, dtype);
        });
      }
    }
  }

  const ModulateBackwardParameters& p_;
  RowBuffers<Real> buffers_;
  Modulator modulators_;
  const bool streams_x_, streams_branch_;
  bool streams_[kSlots][kTerms];
  Real *buffer_[7], *own_memory_[kSlots], *sums_[kSlots];
  double* unit_sums_ = nullptr;
  double numbers_[kSlots] = {};  // where all is uniform: the row's gradients
};

template <class Rows, class Parameters>
void run_units(const Parameters& p, int64_t first_unit, int64_t last_unit) {
  Rows rows(p);
  for (int64_t unit = first_unit; unit < last_unit; ++unit) rows.run(unit);
  finish_streams();
}

template <template <class, class, bool> class Rows, class Real, class Parameters, class... Operands>
void run_rows(const Parameters& p, bool uniform, int64_t first_unit, int64_t last_unit, const Operands&... rows) {
  if constexpr (sizeof(Real) == sizeof(float)) {
    if (all_lie_ready<BFloat16Bits>(p.shape, rows...)) {
      return (uniform ? run_units<Rows<Real, BFloat16Bits, true>, Parameters>
                      : run_units<Rows<Real, BFloat16Bits, false>, Parameters>)(p, first_unit, last_unit);
    }
  }
  (uniform ? run_units<Rows<Real, Real, true>, Parameters>
           : run_units<Rows<Real, Real, false>, Parameters>)(p, first_unit, last_unit);
}

template <class Real>
void forward(const ModulateParameters& p, int64_t first_unit, int64_t last_unit) {
  run_rows<Forward, Real>(p, is_uniform(p, p.slot), first_unit, last_unit, p.x, p.branch, p.residual, p.y);
}

template <class Real>
void backward(const ModulateBackwardParameters& p, int64_t first_unit, int64_t last_unit) {
  const bool uniform = is_uniform(p, p.slot) && is_uniform(p, p.gradient);
  run_rows<Backward, Real>(p, uniform, first_unit, last_unit, p.residual, p.branch, p.grad_residual, p.grad_y, p.grad_x,
                           p.grad_branch);
}

}  // namespace

const Loops<ModulateParameters, ModulateBackwardParameters> modulate_kernels = {{forward<float>, forward<double>},
                                                                                {backward<float>, backward<double>}};

}  // namespace visgen::VISGEN_ISA
