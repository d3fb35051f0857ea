// The family `optimize`: what its kernels are told.
//
// Lists of tensors count as one long array, in which units of work lie anywhere: a hundred small tensors are spread
// over threads as evenly as one large one.
#pragma once

#include <cmath>

#include "../common/dtype.h"
#include "../common/partition.h"

namespace visgen {

constexpr int kStates = 5;  // of a parameter: itself, its gradient, both moments, its average
enum State { kParameter, kGradient, kMean, kSquare, kAverage };

// The tensors of one parameter, all of one shape and layout without gaps: elements are numbered as they lie in memory.
struct Optimized {
  void* data[kStates];  // null where no average is kept
};

// The lists: tensor t has elements [first[t], first[t + 1]) of the long array.
struct Lists {
  const Optimized* tensors = nullptr;
  const int64_t* first = nullptr;
  int64_t count = 0;
  DType dtypes[kStates] = {};  // of the tensors of a list

  int64_t elements() const { return first[count]; }
};

// Calls body(tensor, its first element, elements) for what elements [begin, end) of the long array are made of.
template <class Body>
void for_each_piece(const Lists& lists, int64_t begin, int64_t end, Body body) {
  int64_t low = 0, high = lists.count;  // first[low] <= begin < first[high]
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (lists.first[middle] <= begin ? low : high) = middle;
  }
  for (int64_t t = low; begin < end; ++t) {
    const int64_t last = lists.first[t + 1] < end ? lists.first[t + 1] : end;
    if (begin < last) body(t, begin - lists.first[t], last - begin);
    begin = begin < last ? last : begin;
  }
}

// In the order of the schema.
struct AdamWNumbers {
  double learning_rate, beta1, beta2, eps, weight_decay, step, average_decay, gradient_scale;
};

// What elements are multiplied by.
struct AdamWFactors {
  double gradient_scale, mean_rate, square_kept, square_rate, parameter_kept, rate, root_scale, eps, average_rate;

  AdamWFactors() = default;
  VISGEN_HOST_DEVICE explicit AdamWFactors(const AdamWNumbers& n)
      : gradient_scale(n.gradient_scale),
        mean_rate(1 - n.beta1),
        square_kept(n.beta2),
        square_rate(1 - n.beta2),
        parameter_kept(1 - n.learning_rate * n.weight_decay),
        rate(n.learning_rate / (1 - pow(n.beta1, n.step))),
        root_scale(1 / sqrt(1 - pow(n.beta2, n.step))),
        eps(n.eps),
        average_rate(1 - n.average_decay) {}

  // A loss scaler's step that overflowed is left out.
  VISGEN_HOST_DEVICE bool leaves_out() const { return !(gradient_scale - gradient_scale == 0); }
};

// The step of one element, or of a vector of them.
template <class Real>
struct AdamWStep {
  Real gradient_scale, mean_rate, square_kept, square_rate, parameter_kept, rate, root_scale, eps, average_rate;

  VISGEN_HOST_DEVICE explicit AdamWStep(const AdamWFactors& f)
      : gradient_scale(static_cast<Real>(f.gradient_scale)),
        mean_rate(static_cast<Real>(f.mean_rate)),
        square_kept(static_cast<Real>(f.square_kept)),
        square_rate(static_cast<Real>(f.square_rate)),
        parameter_kept(static_cast<Real>(f.parameter_kept)),
        rate(static_cast<Real>(f.rate)),
        root_scale(static_cast<Real>(f.root_scale)),
        eps(static_cast<Real>(f.eps)),
        average_rate(static_cast<Real>(f.average_rate)) {}

  VISGEN_HOST_DEVICE void move(Real& parameter, Real gradient, Real& mean, Real& square) const {
    gradient *= gradient_scale;
    mean += mean_rate * (gradient - mean);
    square = square_kept * square + square_rate * (gradient * gradient);
    parameter = parameter_kept * parameter - rate * mean / (std::sqrt(square) * root_scale + eps);
  }
  VISGEN_HOST_DEVICE void follow(Real& average, Real parameter) const {
    average += average_rate * (parameter - average);
  }
};

struct AdamWParameters {
  bool in_double = false;
  Lists lists;
  AdamWFactors factors;
  const AdamWNumbers* numbers = nullptr;  // on the device; instead of the factors
  Partition partition{0, 0, 0, 1};
};

struct GradientNormParameters {
  bool in_double = false;
  Lists lists;                     // of gradients alone
  double* partial_sums = nullptr;  // [units]: of squares
  void* norm = nullptr;            // float, or double in double
  Partition partition{0, 0, 0, 1};
};

}  // namespace visgen
