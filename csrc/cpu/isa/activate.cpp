// The family `activate` on one instruction set: pieces of rows, read once and written once.
//
// A number costs an exponential and one or two divisions, some 40 operations, forward and backward.
#include "../../ops/activate.h"

#include "../kernels.h"
#include "operand_rows.h"

namespace visgen::VISGEN_ISA {

#if defined(__AVX512F__)
template <>
struct Primitives<FloatVector> {
  static VISGEN_HOST_DEVICE FloatVector at_most(FloatVector x, float bound) {
    return (FloatVector)_mm512_min_ps(_mm512_set1_ps(bound), (__m512)x);  // of NaN and a number: the second
  }
  static VISGEN_HOST_DEVICE FloatVector at_least(FloatVector x, float bound) {
    return (FloatVector)_mm512_max_ps(_mm512_set1_ps(bound), (__m512)x);
  }
  static VISGEN_HOST_DEVICE FloatVector scaled(FloatVector p, FloatVector shifted) {
    return (FloatVector)_mm512_scalef_ps((__m512)p, (__m512)(shifted - 12582912.0f));
  }
};
#endif

namespace {

constexpr int64_t kPiece = 2048;  // numbers of a row that buffers hold

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Calls body(place) for the pieces of rows of a unit.
template <class Body>
void for_each_piece(const ActivatedRows& p, int64_t index, Body body) {
  const Unit unit = unit_at(p.partition, index);
  RowPlace at(p.shape, unit.begin / p.columns);
  int64_t column = unit.begin % p.columns;
  for (int64_t left = unit.end - unit.begin; left > 0;) {
    const int64_t count = least(least(p.columns - column, left), kPiece);
    at.take_columns(column, count);
    body(at);
    left -= count, column += count;
    if (column == p.columns) at.next(), column = 0;
  }
}

// In the arithmetic's type what is activated and, where that is a gate, what it multiplies. Without a bias that of
// zeros is added.
template <class Real, class Stored, bool gated>
class Inputs {
 public:
  static constexpr int kHalves = gated ? 2 : 1, kBuffers = 2 * kHalves + 1;

  Inputs(const ActivatedRows& p, RowBuffers<Real>& buffers)
      : p_(p), zeros_(buffers.next(Real(0), least(p.columns, kPiece))) {
    for (int half = 0; half < kHalves; ++half) x_memory_[half] = buffers.next(), bias_memory_[half] = buffers.next();
  }

  void move_to(const RowPlace& at) {
    const bool same = at.first_column() == first_column_ && at.columns() == columns_;  // as of the row before
    for (int half = 0; half < kHalves; ++half) {
      x_[half] = load_row<Stored>(p_.x[half], at, x_memory_[half]);
      if (!same) bias_[half] = p_.bias[half].data ? load_row<Real>(p_.bias[half], at, bias_memory_[half]) : zeros_;
    }
    first_column_ = at.first_column(), columns_ = at.columns();
  }

  template <class Value, class Lanes>
  VISGEN_HOST_DEVICE Value take(int half, const Lanes& lanes, int64_t i) const {
    return lanes.template take<Value>(x_[half] + i) + lanes.template take<Value>(bias_[half] + i);
  }

 private:
  const ActivatedRows& p_;
  const Real* zeros_;
  Real *x_memory_[kHalves], *bias_memory_[kHalves];
  const Stored* x_[kHalves] = {};
  const Real* bias_[kHalves] = {};
  int64_t first_column_ = -1, columns_ = 0;
};

template <class Real>
struct ActivatedOf {
  typedef FloatVector Type;
};
template <>
struct ActivatedOf<double> {  // by the system's library, number by number
  typedef double Type;
};

// Whether outputs go past the cache.
template <class Stored>
bool streams_piece(const Stored* row, const SampleShape& shape) {
  constexpr int64_t kLarge = 4 << 20, bytes = sizeof(Stored);
  return shape.elements * bytes >= kLarge && reinterpret_cast<int64_t>(row) % kVectorBytes == 0;
}

template <class Stored, class Real>
OutputRow<Stored> output_at(const Operand& operand, const RowPlace& at, Real* buffer) {
  Stored* row = row_for_output<Stored>(operand, at, buffer);
  return {row, streams_piece(row, at.shape())};
}

template <class Real, class Stored, Activation kind, bool gated>
class Forward {
 public:
  using Rows = Inputs<Real, Stored, gated>;
  using Value = typename ActivatedOf<Real>::Type;

  explicit Forward(const ActivateParameters& p)
      : p_(p), buffers_(Rows::kBuffers + 1, least(p.columns, kPiece)), inputs_(p, buffers_), y_(buffers_.next()) {}

  void run(int64_t unit) {
    for_each_piece(p_, unit, [&](const RowPlace& at) {
      inputs_.move_to(at);
      const OutputRow<Stored> y = output_at<Stored>(p_.y, at, y_);
      const Rows inputs = inputs_;
      for_each_vector<Real>(at.columns(), [=](auto lanes, int64_t i) {
        const Value gate = inputs.template take<Value>(0, lanes, i);
        Value result = gate * share_of<kind, Real>(gate).value;
        if constexpr (gated) result *= inputs.template take<Value>(1, lanes, i);
        lanes.put(y, i, result);
      });
      store_row(p_.y, at, y.row);
    });
  }

 private:
  const ActivateParameters& p_;
  RowBuffers<Real> buffers_;
  Rows inputs_;
  Real* y_;
};

template <class Real, class Stored, Activation kind, bool gated>
class Backward {
 public:
  using Rows = Inputs<Real, Stored, gated>;
  using Value = typename ActivatedOf<Real>::Type;

  explicit Backward(const ActivateBackwardParameters& p)
      : p_(p),
        buffers_(Rows::kBuffers + 1 + kHalves, least(p.columns, kPiece)),
        inputs_(p, buffers_),
        incoming_(buffers_.next()),
        sums_memory_(p.partial_sums ? kHalves : 0, p.columns) {
    for (int half = 0; half < kHalves; ++half) {
      own_[half] = buffers_.next();
      if (p.partial_sums) sums_[half] = sums_memory_.next(Real(0), p.columns);
    }
  }

  void run(int64_t unit) {
    double* sums = p_.partial_sums + unit * kHalves * p_.columns;
    for (int64_t i = 0; p_.partial_sums && i < kHalves * p_.columns; ++i) sums[i] = 0;
    int rows = 0;
    for_each_piece(p_, unit, [&](const RowPlace& at) {
      run_piece(at);
      const bool ends = at.first_column() + at.columns() == p_.columns;
      if (ends && ++rows % kRowsOfSum == 0) flush(sums);
    });
    flush(sums);
  }

 private:
  static constexpr int kHalves = Rows::kHalves;
  static constexpr int kRowsOfSum = 4;  // added up in their own type

  void flush(double* sums) {
    for (int half = 0; half < kHalves && p_.partial_sums; ++half) {
      add_row(sums_[half], p_.columns, sums + half * p_.columns);
      memset(sums_[half], 0, p_.columns * sizeof(Real));
    }
  }

  // Where gradients go: into x, and into sums over rows; null where nobody asks.
  struct Target {
    OutputRow<Stored> into_x;
    OutputRow<Real> sums;

    template <class Lanes>
    VISGEN_HOST_DEVICE void give(const Lanes& lanes, int64_t i, Value value) const {
      if (into_x.row) lanes.put(into_x, i, value);
      if (sums.row) lanes.put(sums, i, lanes.template take<Value>(sums.row + i) + value);
    }
  };

  Target target(int half, const RowPlace& at) {
    Target target;
    if (p_.grad_x[half].data) target.into_x = output_at<Stored>(p_.grad_x[half], at, own_[half]);
    if (p_.partial_sums) target.sums.row = sums_[half] + at.first_column();
    return target;
  }

  void run_piece(const RowPlace& at) {
    inputs_.move_to(at);
    const Rows inputs = inputs_;
    const Stored* incoming = load_row<Stored>(p_.grad_y, at, incoming_);
    const Target into_gate = target(0, at), into_value = gated ? target(1, at) : Target{};
    for_each_vector<Real>(at.columns(), [=](auto lanes, int64_t i) {
      const Value gate = inputs.template take<Value>(0, lanes, i);
      const Share<Value> share = share_of<kind, Real>(gate);
      Value into_y = lanes.template take<Value>(incoming + i);
      if constexpr (gated) {
        into_value.give(lanes, i, into_y * (gate * share.value));
        into_y *= inputs.template take<Value>(1, lanes, i);
      }
      into_gate.give(lanes, i, into_y * share.slope);
    });
    store_row(p_.grad_x[0], at, into_gate.into_x.row);
    if constexpr (gated) store_row(p_.grad_x[1], at, into_value.into_x.row);
  }

  const ActivateBackwardParameters& p_;
  RowBuffers<Real> buffers_;
  Rows inputs_;
  Real *incoming_, *own_[kHalves];
  RowBuffers<Real> sums_memory_;
  Real* sums_[kHalves] = {};
};

template <class Rows, class Parameters>
void run_units(const Parameters& p, int64_t first_unit, int64_t last_unit) {
  Rows rows(p);
  for (int64_t unit = first_unit; unit < last_unit; ++unit) rows.run(unit);
  finish_streams();
}

template <class Real>
void forward(const ActivateParameters& p, int64_t first_unit, int64_t last_unit) {
  choose_activation(p, [&]<Activation kind, bool gated>() {
    if constexpr (sizeof(Real) == sizeof(float)) {
      if (all_lie_ready<BFloat16Bits>(p.shape, p.x[0], p.x[1], p.y)) {
        return run_units<Forward<Real, BFloat16Bits, kind, gated>>(p, first_unit, last_unit);
      }
    }
    run_units<Forward<Real, Real, kind, gated>>(p, first_unit, last_unit);
  });
}

template <class Real>
void backward(const ActivateBackwardParameters& p, int64_t first_unit, int64_t last_unit) {
  choose_activation(p, [&]<Activation kind, bool gated>() {
    if constexpr (sizeof(Real) == sizeof(float)) {
      if (all_lie_ready<BFloat16Bits>(p.shape, p.x[0], p.x[1], p.grad_y, p.grad_x[0], p.grad_x[1])) {
        return run_units<Backward<Real, BFloat16Bits, kind, gated>>(p, first_unit, last_unit);
      }
    }
    run_units<Backward<Real, Real, kind, gated>>(p, first_unit, last_unit);
  });
}

}  // namespace

const Loops<ActivateParameters, ActivateBackwardParameters> activate_kernels = {{forward<float>, forward<double>},
                                                                                {backward<float>, backward<double>}};

}  // namespace visgen::VISGEN_ISA
