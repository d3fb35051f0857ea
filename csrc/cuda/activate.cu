// The family `activate` on a GPU: a thread a few columns, of the rows of a unit; x read once, results written once.
//
// A number costs an exponential and one or two divisions, some 40 operations, forward and backward. The gradient of a
// bias: a thread adds up its columns over the rows of a unit, of which a few in their own type and the rest in double;
// a second launch adds up the units.
//
// Issue slots an element in the machine code for 9.0 (benchmarks/machine_code): activate gelu_tanh float32 86.25,
// activate gelu_tanh bfloat16 63.75, gated_activate swiglu float32 112.5, gated_activate swiglu bfloat16 79.62.
#include "../ops/activate_call.h"

#include "operand_rows.cuh"
#include "shared_gradient.h"

namespace visgen {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kRowsOfUnit = 32;
constexpr int kRowsOfSum = 4;  // added up in their own type

// Calls body(unit, its first row, the row behind its last, first column) for the thread's units.
template <int span, class Body>
__device__ __forceinline__ void for_each_strip(const ActivatedRows& p, Body body) {
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * span;
  if (begin >= p.columns) return;
  for (int64_t index = blockIdx.y; index < p.partition.units_per_sample; index += gridDim.y) {
    const Unit unit = unit_at(p.partition, index);
    body(index, unit.begin, unit.end, begin);
  }
}

// What is activated, or what a gate multiplies.
template <class Real, int span>
__device__ __forceinline__ void load_half(const ActivatedRows& p, int half, int64_t row, const Real (&bias)[2][span],
                                          int64_t begin, Real (&out)[span]) {
  load_columns(p.x[half], Row(p.x[half], p.shape, row), begin, out);
  VISGEN_UNROLL
  for (int i = 0; i < span; ++i) out[i] += bias[half][i];
}

template <class Real, int span>
__device__ __forceinline__ void load_biases(const ActivatedRows& p, int64_t begin, Real (&bias)[2][span]) {
  VISGEN_UNROLL
  for (int half = 0; half < 2; ++half) {
    load_or_zero(p.bias[half], Row(p.bias[half], p.shape, 0), begin, bias[half]);
  }
}

template <Activation kind, bool gated, class Real, int span>
__global__ void __launch_bounds__(kThreads) forward(ActivateParameters p) {
  for_each_strip<span>(p, [&](int64_t, int64_t first, int64_t last, int64_t begin) {
    Real bias[2][span];
    load_biases(p, begin, bias);
    for (int64_t row = first; row < last; ++row) {
      Real y[span], value[span];
      load_half(p, 0, row, bias, begin, y);
      if (gated) load_half(p, 1, row, bias, begin, value);
      VISGEN_UNROLL
      for (int i = 0; i < span; ++i) {
        y[i] *= cuda::share_of<kind, Real>(y[i]).value;
        if (gated) y[i] *= value[i];
      }
      store_columns(p.y, Row(p.y, p.shape, row), begin, y);
    }
  });
}

// Sums of a half's columns over the rows of a unit.
template <class Real, int span>
struct ColumnSums {
  Real few[span] = {};
  double all[span] = {};

  __device__ __forceinline__ void add(const Real (&values)[span]) {
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) few[i] += values[i];
  }
  __device__ __forceinline__ void flush() {
    VISGEN_UNROLL
    for (int i = 0; i < span; ++i) all[i] += few[i], few[i] = 0;
  }
};

template <Activation kind, bool gated, class Real, int span>
__global__ void __launch_bounds__(kThreads) backward(ActivateBackwardParameters p) {
  constexpr int kHalves = gated ? 2 : 1;
  for_each_strip<span>(p, [&](int64_t unit, int64_t first, int64_t last, int64_t begin) {
    Real bias[2][span];
    load_biases(p, begin, bias);
    ColumnSums<Real, span> sums[kHalves];
    for (int64_t row = first; row < last; ++row) {
      Real gate[span], value[span], incoming[span], into[kHalves][span];
      load_half(p, 0, row, bias, begin, gate);
      if (gated) load_half(p, 1, row, bias, begin, value);
      load_columns(p.grad_y, Row(p.grad_y, p.shape, row), begin, incoming);
      VISGEN_UNROLL
      for (int i = 0; i < span; ++i) {
        const auto share = cuda::share_of<kind, Real>(gate[i]);
        if constexpr (gated) {
          into[1][i] = incoming[i] * (gate[i] * share.value);
          incoming[i] *= value[i];
        }
        into[0][i] = incoming[i] * share.slope;
      }
      VISGEN_UNROLL
      for (int half = 0; half < kHalves; ++half) {
        store_columns(p.grad_x[half], Row(p.grad_x[half], p.shape, row), begin, into[half]);
        sums[half].add(into[half]);
        if ((row - first) % kRowsOfSum == kRowsOfSum - 1 || row == last - 1) sums[half].flush();
      }
    }
    if (!p.partial_sums) return;
    VISGEN_UNROLL
    for (int half = 0; half < kHalves; ++half) {
      VISGEN_UNROLL
      for (int i = 0; i < span; ++i) {
        p.partial_sums[(unit * kHalves + half) * p.columns + begin + i] = sums[half].all[i];
      }
    }
  });
}

// Calls call<activation, gated, type of arithmetic, columns of a tile>() as constants: as wide as all operands allow.
template <class Call>
void choose_strip(const ActivatedRows& p, std::initializer_list<const Operand*> others, Call call) {
  const auto fits = [&](int span, int64_t most_bytes) {
    bool all = p.columns % span == 0;
    const auto check_one = [&](const Operand& operand) {
      all = all && size_of(operand.dtype) <= most_bytes && has_wide_columns(operand, p.shape, span);
    };
    for (int half = 0; half < 2; ++half) {
      if (p.x[half].data) check_one(p.x[half]);
      all = all && has_wide_columns(p.bias[half], p.shape, span);
    }
    for (const Operand* operand : others) {
      if (operand->data) check_one(*operand);
    }
    return all;
  };
  choose_activation(p, [&]<Activation kind, bool gated>() {
    if (p.in_double) return call.template operator()<kind, gated, double, 1>();
    if (fits(8, 2)) return call.template operator()<kind, gated, float, 8>();
    if (fits(4, 8)) return call.template operator()<kind, gated, float, 4>();
    call.template operator()<kind, gated, float, 1>();
  });
}

struct Activate {
  static void run(ActivateParameters p, const Tensor& like) {
    const OnDevice on(like.get_device_index());
    cut(p, 1);
    choose_strip(p, {&p.y}, [&]<Activation kind, bool gated, class Real, int span>() {
      launch<forward<kind, gated, Real, span>>(grid_of(p, span), on.stream, p);
    });
  }

  static void run(ActivateBackwardParameters p, const Tensor& like) {
    const OnDevice on(like.get_device_index());
    cut(p, p.grad_bias[0].data ? kRowsOfUnit : 1);
    const OptionalTensor sums = add_partial_sums(p, like);
    choose_strip(p, {&p.grad_y, &p.grad_x[0], &p.grad_x[1]}, [&]<Activation kind, bool gated, class Real, int span>() {
      launch<backward<kind, gated, Real, span>>(grid_of(p, span), on.stream, p);
    });
    for_each_sum(p, [&](const SharedGradient& sum) { add_up(sum, on.stream); });
  }

 private:
  static void cut(ActivatedRows& p, int64_t rows) { p.partition = Partition(1, p.rows, p.rows, rows); }

  static LaunchShape grid_of(const ActivatedRows& p, int span) {
    const int64_t across = (p.columns + int64_t{kThreads} * span - 1) / (int64_t{kThreads} * span);
    const int64_t units = std::min<int64_t>(p.partition.units(), 65535);  // a kernel loops over the rest
    return {dim3(static_cast<unsigned>(across), static_cast<unsigned>(units)), dim3(kThreads)};
  }
};

}  // namespace

VISGEN_REGISTER(CUDA, m) { ActivateOperations<Activate>::add_to(m); }

}  // namespace visgen
