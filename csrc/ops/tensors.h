// From tensors to what kernels know: pointers, sizes, strides and element types. Whatever a kernel would read or write
// beyond a tensor's memory is refused here, in one sentence; what else is wrong is said by visgen_fast/ops.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <numeric>
#include <optional>
#include <sstream>
#include <vector>

#include "../common/layout.h"

namespace visgen {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;

// Throws the sentence that the parts make up; STD_TORCH_CHECK would begin it with the path of a source.
template <class... Parts>
void check(bool holds, const Parts&... parts) {
  if (holds) [[likely]] {
    return;
  }
  std::ostringstream sentence;
  (sentence << ... << parts);
  throw std::runtime_error(sentence.str());
}

inline DType dtype_of(ScalarType type, const char* name) {
  constexpr ScalarType types[] = {ScalarType::Byte, ScalarType::Half, ScalarType::BFloat16, ScalarType::Float,
                                  ScalarType::Double};  // in the order of DType
  int index = 0;
  while (index < 5 && types[index] != type) ++index;
  check(index < 5, name, " must be uint8, float16, bfloat16, float32 or float64");
  return static_cast<DType>(index);
}

inline const char* name_of(ScalarType type) {
  constexpr const char* names[] = {"uint8", "float16", "bfloat16", "float32", "float64"};
  return type == ScalarType::Long ? "int64" : names[static_cast<int>(dtype_of(type, "a tensor"))];
}

inline DType floating_dtype_of(ScalarType type, const char* name) {
  const DType dtype = dtype_of(type, name);
  check(dtype != DType::uint8, name, " must be float16, bfloat16, float32 or float64");
  return dtype;
}

// The type of arithmetic.
inline ScalarType real_type_of(bool in_double) { return in_double ? ScalarType::Double : ScalarType::Float; }
inline bool is_double(const Tensor& x) { return x.scalar_type() == ScalarType::Double; }
inline ScalarType real_of(const Tensor& x) { return real_type_of(is_double(x)); }

inline Sizes sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return {sizes.begin(), sizes.end()};
}

inline std::string text_of(const Sizes& sizes) {
  std::ostringstream text;
  for (size_t d = 0; d < sizes.size(); ++d) text << (d ? ", " : "[") << sizes[d];
  return text.str() + (sizes.empty() ? "[]" : "]");
}

// What `make` allocates. Torch's stable interface hides why it could not, and says so with a path and a line.
template <class Make>
Tensor allocated(const Sizes& sizes, Make make) {
  try {
    return make();
  } catch (const std::exception&) {
    throw std::runtime_error("there is no memory for a tensor of shape " + text_of(sizes));
  }
}

// Uninitialised, with the sizes and memory layout of `like`.
inline Tensor empty_like(const Tensor& like, ScalarType dtype) {
  return allocated(sizes_of(like), [&] {
    using torch::stable::detail::from;
    std::array<StableIValue, 6> stack{from(like),         from(std::optional<ScalarType>(dtype)),
                                      from(std::nullopt), from(std::nullopt),
                                      from(std::nullopt), from(std::nullopt)};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::empty_like", "", stack.data(), TORCH_ABI_VERSION));
    return torch::stable::detail::to<Tensor>(stack[0]);
  });
}

inline Tensor empty_on(const Tensor& like, const Sizes& sizes, ScalarType dtype) {
  return allocated(sizes, [&] { return torch::stable::new_empty(like, sizes, dtype); });
}

inline Tensor zeros_on(const Tensor& like, const Sizes& sizes, ScalarType dtype) {
  return allocated(sizes, [&] { return torch::stable::new_zeros(like, sizes, dtype); });
}

// The same for a result of the call: `data`, of its parameters, points to it.
template <class T>
Tensor empty_for(T*& data, const Tensor& like, const Sizes& sizes, ScalarType dtype) {
  Tensor result = empty_on(like, sizes, dtype);
  data = static_cast<T*>(result.mutable_data_ptr());
  return result;
}

template <class T>
Tensor zeros_for(T*& data, const Tensor& like, const Sizes& sizes, ScalarType dtype) {
  Tensor result = zeros_on(like, sizes, dtype);
  data = static_cast<T*>(result.mutable_data_ptr());
  return result;
}

// A result, or what stands for one that nobody asks for.
inline Tensor or_nothing(const OptionalTensor& result, const Tensor& like) {
  return result ? *result : empty_on(like, {0}, ScalarType::Float);
}

inline void check_array(const Tensor& tensor, const Tensor& like, const Sizes& sizes, ScalarType type,
                        const char* name) {
  const bool fits = tensor.scalar_type() == type && tensor.is_contiguous() && tensor.sizes().equals(sizes) &&
                    tensor.device() == like.device();
  if (fits) return;
  check(false, name, " must be contiguous ", name_of(type), " ", text_of(sizes), ", on the device of the others");
}

// The data of a contiguous tensor of just these sizes and this type, on the device of `like`.
template <class T = void>
T* data_of(const Tensor& tensor, const Tensor& like, const Sizes& sizes, ScalarType type, const char* name) {
  check_array(tensor, like, sizes, type, name);
  return static_cast<T*>(tensor.data_ptr());
}

// The same of a tensor that may be absent.
template <class T = void>
T* data_of(const OptionalTensor& tensor, const Tensor& like, const Sizes& sizes, ScalarType type, const char* name) {
  return tensor ? data_of<T>(*tensor, like, sizes, type, name) : nullptr;
}

// Whether x is one sample, or [samples, *sample], or one sample whose last dimension, a row, is merged with no other.
enum class Kind { one_sample, samples, rows };

inline void check_dimensions(const Tensor& x, Kind kind) {
  const int most = kMaxDimensions + (kind == Kind::samples);
  check(x.dim() >= 1 && x.dim() <= most, "x must have 1 to ", most, " dimensions, got ", x.dim());
}

inline int64_t samples_of(const Tensor& x) {
  check_dimensions(x, Kind::samples);
  return x.size(0);
}

inline const int64_t* seeds_of(const OptionalTensor& seeds, const Tensor& x) {
  return data_of<const int64_t>(seeds, x, {samples_of(x)}, ScalarType::Long, "seeds");
}

// A tensor of a call, which may be absent; the operand that kernels know it by; its name in sentences.
struct Argument {
  Argument(const Tensor& tensor, Operand& operand, const char* name) : tensor(&tensor), operand(&operand), name(name) {}
  Argument(const OptionalTensor& tensor, Operand& operand, const char* name)
      : tensor(tensor ? &*tensor : nullptr), operand(&operand), name(name) {}

  const Tensor* tensor;
  Operand* operand;
  const char* name;
};

// Collects the operands of one call, all of the same sizes [samples, *sample] (or all of it one sample), and merges
// adjacent dimensions that are adjacent in every one of them.
class Batch {
 public:
  explicit Batch(const Tensor& first, Kind kind = Kind::samples, std::initializer_list<Argument> arguments = {})
      : first_(first), device_(first.device()), leading_(kind == Kind::samples), trailing_(kind == Kind::rows) {
    check_dimensions(first, kind);
    for (int64_t d = leading_; d < first.dim(); ++d) sizes_.push_back(first.size(d));
    operands_.reserve(arguments.size());
    for (const Argument& argument : arguments) add(argument);
  }

  void add(const Argument& argument) {
    const auto& [tensor, address, name] = argument;
    if (!tensor) return;
    Operand& operand = *address;
    check(tensor->sizes().equals(first_.sizes()), name, " must have the shape of x");
    check(tensor->device() == device_, name, " must be on the device of x");
    operand.dtype = dtype_of(tensor->scalar_type(), name);
    operand.data = tensor->data_ptr();
    const auto strides = tensor->strides();
    operand.sample_stride = leading_ ? strides[0] : 0;
    for (size_t d = leading_; d < strides.size(); ++d) operand.strides[d - leading_] = strides[d];
    operands_.push_back(&operand);
  }

  void add(const OptionalTensor& tensor, Operand& operand, const char* name) { add(Argument(tensor, operand, name)); }

  // The same for a tensor that may hold no pixels.
  void add_floating(const Argument& argument) {
    if (argument.tensor) floating_dtype_of(argument.tensor->scalar_type(), argument.name);
    add(argument);
  }

  // The same for a tensor whose sizes may be 1 instead. Where x has rows it may lack dimensions: the first ones or, if
  // it has two, those between the first and the last.
  void add_broadcast(const Tensor& tensor, Operand& operand, const char* name) {
    const int64_t missing = first_.dim() - tensor.dim();
    const bool at_ends = trailing_ && tensor.dim() == 2;
    const auto dimension_at = [&](int64_t d) {
      return at_ends && d == 0 ? 0 : at_ends && d <= missing ? -1 : d - missing;
    };
    bool fits = (trailing_ ? missing >= 0 : missing == 0) && tensor.device() == device_;
    for (int64_t d = 0; d < first_.dim() && fits; ++d) {
      const int64_t at = dimension_at(d);
      fits = at < 0 || tensor.size(at) == 1 || tensor.size(at) == first_.size(d);
    }
    check(fits, name, " must be broadcastable to the shape of x, and on its device");
    operand.dtype = floating_dtype_of(tensor.scalar_type(), name);
    operand.data = tensor.data_ptr();
    const auto stride = [&](int64_t d) {
      const int64_t at = dimension_at(d);
      return at < 0 || tensor.size(at) == 1 ? 0 : tensor.stride(at);
    };
    operand.sample_stride = leading_ ? stride(0) : 0;
    for (int64_t d = leading_; d < first_.dim(); ++d) operand.strides[d - leading_] = stride(d);
    operands_.push_back(&operand);
  }

  // Numbers the elements of a sample as the first operand has them in memory: for what does the same to all of them.
  void follow_memory() {
    Sizes order(sizes_.size());
    std::iota(order.begin(), order.end(), 0);
    const int64_t* strides = operands_.front()->strides;
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return strides[a] > strides[b]; });
    const auto reorder = [&](int64_t* values) {
      const Sizes before(values, values + order.size());
      for (size_t d = 0; d < order.size(); ++d) values[d] = before[order[d]];
    };
    reorder(sizes_.data());
    for (Operand* operand : operands_) reorder(operand->strides);
  }

  SampleShape merge() {
    SampleShape shape;
    shape.samples = leading_ ? first_.size(0) : 1;
    shape.dimensions = 0;
    if (first_.numel() == 0) shape.elements = 0;  // sizes and strides may be any numbers then
    for (size_t d = 0; d < sizes_.size() && shape.elements > 0; ++d) {
      const int64_t size = sizes_[d];
      const bool is_row = trailing_ && d == sizes_.size() - 1;
      shape.elements *= size;
      if (size == 1 && !is_row) continue;
      if (!is_row && shape.dimensions > 0 && adjacent(shape.dimensions - 1, d, size)) {
        shape.sizes[shape.dimensions - 1] *= size;
      } else {
        shape.sizes[shape.dimensions++] = size;
      }
      for (Operand* operand : operands_) operand->strides[shape.dimensions - 1] = operand->strides[d];
    }
    if (shape.dimensions == 0) {  // a sample of one element, or of none
      shape.dimensions = 1;
      shape.sizes[0] = 1;
      for (Operand* operand : operands_) operand->strides[0] = 1;
    }
    return shape;
  }

 private:
  bool adjacent(int outer, int64_t inner, int64_t inner_size) const {
    for (const Operand* operand : operands_) {
      if (operand->strides[outer] != operand->strides[inner] * inner_size) return false;
    }
    return true;
  }

  const Tensor& first_;
  const torch::stable::Device device_;
  int leading_, trailing_;  // dimensions that number the samples, that are a row
  Sizes sizes_;             // of a sample
  std::vector<Operand*> operands_;
};

// A call whose operands are batches of samples like x: p learns where they are, then the Device does the work.
template <class Device, class Parameters>
void run_samples(Parameters& p, const Tensor& x, std::initializer_list<Argument> operands) {
  p.in_double = is_double(x);
  p.shape = Batch(x, Kind::samples, operands).merge();
  if (x.numel() > 0) Device::run(p, x);
}

}  // namespace visgen
