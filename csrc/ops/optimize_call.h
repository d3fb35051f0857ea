// Calls of the family `optimize`.
#pragma once

#include <algorithm>

#include "../common/registration.h"
#include "optimize.h"
#include "tensors.h"

namespace visgen {

constexpr const char* kStateNames[kStates] = {"parameters", "gradients", "means", "squares", "averages"};

using TensorList = std::vector<Tensor>;

// Whether no memory lies between the elements of a tensor, and none holds two of them.
inline bool has_no_gaps(const Tensor& tensor) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  int64_t last = 0;
  for (size_t d = 0; d < sizes.size(); ++d) last += (sizes[d] - 1) * strides[d];
  if (last != tensor.numel() - 1) return tensor.numel() == 0;
  std::vector<std::pair<int64_t, int64_t>> dimensions;  // innermost first
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] > 1) dimensions.emplace_back(strides[d], sizes[d]);
  }
  std::sort(dimensions.begin(), dimensions.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : dimensions) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// The lists of a call, in the order of State; what they point to belongs to it.
class ListsOfCall {
 public:
  explicit ListsOfCall(std::initializer_list<const TensorList*> lists) {
    const TensorList& parameters = **lists.begin();
    check(!parameters.empty(), kStateNames[lists.size() == 1], " must not be empty");
    tensors_.resize(parameters.size());
    first_.resize(parameters.size() + 1);
    for (size_t t = 0; t < parameters.size(); ++t) {
      check(has_no_gaps(parameters[t]), "tensor ", t, " of ", kStateNames[lists.size() == 1],
            " must have no gaps in memory, nor elements that share it");
      first_[t + 1] = first_[t] + parameters[t].numel();
    }
    int state = lists.size() == 1 ? kGradient : kParameter;
    for (const TensorList* list : lists) add(*list, parameters, state++);
    if (lists.size() > 1) check_apart();  // else nothing is written
  }

  Lists view() const {
    Lists lists = lists_;
    lists.tensors = tensors_.data(), lists.first = first_.data(), lists.count = static_cast<int64_t>(tensors_.size());
    return lists;
  }

 private:
  void add(const TensorList& list, const TensorList& parameters, int state) {
    if (state == kAverage && list.empty()) return;
    const char* name = kStateNames[state];
    check(list.size() == parameters.size(), name, " must be as many as parameters");
    lists_.dtypes[state] = floating_dtype_of(list[0].scalar_type(), name);
    for (size_t t = 0; t < list.size(); ++t) {
      const Tensor &tensor = list[t], &parameter = parameters[t];
      const bool fits = tensor.sizes().equals(parameter.sizes()) && tensor.scalar_type() == list[0].scalar_type() &&
                        tensor.device() == parameters[0].device() &&
                        (tensor.numel() == 0 || tensor.strides().equals(parameter.strides()));
      check(fits, "tensor ", t, " of ", name, " must have the shape and layout of its parameter, and type and device ",
            "of the others");
      tensors_[t].data[state] = tensor.data_ptr();
    }
  }

  // What is written shares no memory with any other tensor, or threads would write it at once. In the order of memory
  // each begins behind those before it.
  void check_apart() const {
    std::vector<Span> spans;
    spans.reserve(tensors_.size() * kStates);
    for (size_t t = 0; t < tensors_.size(); ++t) {
      const int64_t elements = first_[t + 1] - first_[t];
      for (int state = 0; state < kStates && elements > 0; ++state) {
        const char* data = static_cast<const char*>(tensors_[t].data[state]);
        if (data) spans.push_back({data, data + elements * size_of(lists_.dtypes[state]), state});
      }
    }
    std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
    const char *written = nullptr, *read = nullptr;  // where the last of them ends so far
    for (const Span& span : spans) {
      const bool is_read = span.state == kGradient;
      check(span.begin >= written && (is_read || span.begin >= read), "a tensor of ", kStateNames[span.state],
            " must not share memory with another one");
      (is_read ? read : written) = std::max(is_read ? read : written, span.end);
    }
  }

  struct Span {
    const char *begin, *end;
    int state;
  };

  std::vector<Optimized> tensors_;
  std::vector<int64_t> first_;
  Lists lists_;
};

template <class Device>
struct OptimizeOperations {
  // `numbers` are those of AdamWNumbers; `changing` are the same, float64 on the device, in their place.
  static void adamw_(TensorList parameters, TensorList gradients, TensorList means, TensorList squares,
                     TensorList averages, std::vector<double> numbers, const OptionalTensor& changing) {
    constexpr int64_t kNumbers = sizeof(AdamWNumbers) / sizeof(double);
    const ListsOfCall lists({&parameters, &gradients, &means, &squares, &averages});
    check(numbers.size() == kNumbers, "numbers must be ", kNumbers);
    AdamWParameters p;
    p.in_double = is_double(parameters[0]);
    p.lists = lists.view();
    p.factors =
        AdamWFactors({numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], numbers[7]});
    p.numbers = data_of<const AdamWNumbers>(changing, parameters[0], {kNumbers}, ScalarType::Double, "changing");
    if (p.lists.elements() > 0) Device::run(p, parameters[0]);
  }

  static Tensor gradient_norm(TensorList gradients) {
    const ListsOfCall lists({&gradients});
    GradientNormParameters p;
    p.in_double = is_double(gradients[0]);
    p.lists = lists.view();
    const Tensor norm = zeros_for(p.norm, gradients[0], {}, real_of(gradients[0]));
    if (p.lists.elements() > 0) Device::run(p, gradients[0]);
    return norm;
  }

  VISGEN_OPERATIONS(adamw_, gradient_norm)
};

}  // namespace visgen
