// What the CPU library asks of torch, on plain memory: tensors, the table of operations, and loops on one thread.
#include "torch.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <stdexcept>

#include "../common/registration.h"

namespace visgen::standalone {

std::map<std::string, Function>& functions() {
  static std::map<std::string, Function> all;  // before any registration, whichever file is first
  return all;
}

int64_t bytes_of(int32_t dtype) {
  switch (dtype) {
    case 0:  // uint8, int8, bool
    case 1:
    case 11:
      return 1;
    case 2:  // int16, float16, bfloat16
    case 5:
    case 15:
      return 2;
    case 3:  // int32, float32
    case 6:
      return 4;
    case 4:  // int64, float64, complex64
    case 7:
    case 9:
      return 8;
    default:
      throw std::runtime_error("the kernels alone know no element type " + std::to_string(dtype));
  }
}

int64_t Array::elements() const {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<int64_t>());
}

int64_t Array::extent() const {
  if (elements() == 0) return 0;
  int64_t last = 0;
  for (size_t d = 0; d < sizes.size(); ++d) last += (sizes[d] - 1) * strides[d];
  return (last + 1) * bytes_of(dtype);
}

bool Array::is_contiguous() const {
  int64_t expected = 1;
  for (size_t d = sizes.size(); d-- > 0; expected *= sizes[d]) {
    if (sizes[d] != 1 && strides[d] != expected) return elements() == 0;
  }
  return true;
}

Array made(int32_t dtype, std::vector<int64_t> sizes, std::vector<int64_t> strides) {
  Array array{dtype, std::move(sizes), std::move(strides), nullptr, nullptr};
  const int64_t bytes = array.extent();
  array.memory.reset(aligned_alloc(64, (bytes + 127) / 64 * 64), free);
  if (!array.memory) throw std::runtime_error("no memory");
  array.data = static_cast<char*>(array.memory.get());
  memset(array.data, 0xA5, bytes);  // what nobody writes is seen
  return array;
}

namespace {

Array& array_of(AtenTensorHandle handle) { return *reinterpret_cast<Array*>(handle); }
AtenTensorHandle handle_of(Array array) { return reinterpret_cast<AtenTensorHandle>(new Array(std::move(array))); }
std::vector<StableIValue>& list_of(StableListHandle handle) {
  return *reinterpret_cast<std::vector<StableIValue>*>(handle);
}

// Row-major strides, or those of other memory in the same order.
std::vector<int64_t> dense_strides(const std::vector<int64_t>& sizes, const std::vector<int64_t>& like = {}) {
  std::vector<size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), 0);
  if (!like.empty()) {
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return like[a] > like[b]; });
  }
  std::vector<int64_t> strides(sizes.size());
  int64_t next = 1;
  for (size_t i = order.size(); i-- > 0; next *= std::max<int64_t>(sizes[order[i]], 1)) strides[order[i]] = next;
  return strides;
}

// Values that a call takes from the stack are its own, as with torch.
template <class T>
T taken(StableIValue value) {
  return torch::stable::detail::to<T>(value);
}

Array taken_array(StableIValue value) {
  const auto handle = taken<AtenTensorHandle>(value);
  Array array = array_of(handle);
  delete &array_of(handle);
  return array;
}

int32_t taken_dtype(StableIValue value, int32_t otherwise) {
  const auto inner = taken<StableIValue*>(value);
  if (!inner) return otherwise;
  const int32_t dtype = taken<int32_t>(*inner);
  delete inner;
  return dtype;
}

StableIValue given(Array array) { return torch::stable::detail::from(handle_of(std::move(array))); }

void call(const std::string& name, StableIValue* stack) {
  const Array self = taken_array(stack[0]);
  if (name == "aten::empty_like") {
    stack[0] = given(made(taken_dtype(stack[1], self.dtype), self.sizes, dense_strides(self.sizes, self.strides)));
  } else if (name == "aten::new_empty" || name == "aten::new_zeros") {
    const auto sizes = taken<std::vector<int64_t>>(stack[1]);
    const Array array = made(taken_dtype(stack[2], self.dtype), sizes, dense_strides(sizes));
    if (name == "aten::new_zeros") memset(array.data, 0, array.extent());
    stack[0] = given(array);
  } else if (name == "aten::zero_" && self.is_contiguous()) {
    memset(self.data, 0, self.extent());
    stack[0] = given(self);
  } else {
    throw std::runtime_error("the kernels alone have no " + name);
  }
}

template <class Body>
AOTITorchError answered(Body body) {
  try {
    body();
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

}  // namespace
}  // namespace visgen::standalone

using namespace visgen::standalone;

extern "C" {

uint64_t aoti_torch_abi_version() { return TORCH_ABI_VERSION; }

#define VISGEN_NUMBER(name, value) \
  int32_t name() { return value; }
VISGEN_NUMBER(aoti_torch_device_type_cpu, 0)
VISGEN_NUMBER(aoti_torch_device_type_cuda, 1)
VISGEN_NUMBER(aoti_torch_device_type_xpu, 12)
VISGEN_NUMBER(aoti_torch_device_type_mps, 13)
VISGEN_NUMBER(aoti_torch_device_type_meta, 14)
VISGEN_NUMBER(aoti_torch_device_type_privateuse1, 20)
VISGEN_NUMBER(aoti_torch_dtype_uint8, 0)
VISGEN_NUMBER(aoti_torch_dtype_int8, 1)
VISGEN_NUMBER(aoti_torch_dtype_int16, 2)
VISGEN_NUMBER(aoti_torch_dtype_int32, 3)
VISGEN_NUMBER(aoti_torch_dtype_int64, 4)
VISGEN_NUMBER(aoti_torch_dtype_float16, 5)
VISGEN_NUMBER(aoti_torch_dtype_float32, 6)
VISGEN_NUMBER(aoti_torch_dtype_float64, 7)
VISGEN_NUMBER(aoti_torch_dtype_complex32, 8)
VISGEN_NUMBER(aoti_torch_dtype_complex64, 9)
VISGEN_NUMBER(aoti_torch_dtype_complex128, 10)
VISGEN_NUMBER(aoti_torch_dtype_bool, 11)
VISGEN_NUMBER(aoti_torch_dtype_bfloat16, 15)
VISGEN_NUMBER(aoti_torch_dtype_float8_e5m2, 23)
VISGEN_NUMBER(aoti_torch_dtype_float8_e4m3fn, 24)
VISGEN_NUMBER(aoti_torch_dtype_float8_e5m2fnuz, 25)
VISGEN_NUMBER(aoti_torch_dtype_float8_e4m3fnuz, 26)
VISGEN_NUMBER(aoti_torch_dtype_uint16, 27)
VISGEN_NUMBER(aoti_torch_dtype_uint32, 28)
VISGEN_NUMBER(aoti_torch_dtype_uint64, 29)
VISGEN_NUMBER(torch_dtype_float8_e8m0fnu, 44)
VISGEN_NUMBER(torch_dtype_float4_e2m1fn_x2, 45)
VISGEN_NUMBER(aoti_torch_layout_strided, 0)
VISGEN_NUMBER(aoti_torch_layout_sparse_coo, 1)
VISGEN_NUMBER(aoti_torch_layout_sparse_csr, 2)
VISGEN_NUMBER(aoti_torch_layout_sparse_csc, 3)
VISGEN_NUMBER(aoti_torch_layout_sparse_bsr, 4)
VISGEN_NUMBER(aoti_torch_layout_sparse_bsc, 5)
VISGEN_NUMBER(aoti_torch_layout__mkldnn, 6)
VISGEN_NUMBER(aoti_torch_layout_jagged, 7)

// What is asked of a tensor, in `answer`.
#define VISGEN_QUESTION(name, Type, value)                     \
  AOTITorchError name(AtenTensorHandle tensor, Type* answer) { \
    Array& array = array_of(tensor);                           \
    *answer = value;                                           \
    return 0;                                                  \
  }
VISGEN_QUESTION(aoti_torch_get_data_ptr, void*, array.data)
VISGEN_QUESTION(torch_get_mutable_data_ptr, void*, array.data)
VISGEN_QUESTION(torch_get_const_data_ptr, const void*, array.data)
VISGEN_QUESTION(aoti_torch_get_dim, int64_t, array.sizes.size())
VISGEN_QUESTION(aoti_torch_get_dtype, int32_t, array.dtype)
VISGEN_QUESTION(aoti_torch_get_numel, int64_t, array.elements())
VISGEN_QUESTION(aoti_torch_get_sizes, int64_t*, array.sizes.data())
VISGEN_QUESTION(aoti_torch_get_strides, int64_t*, array.strides.data())
VISGEN_QUESTION(aoti_torch_is_contiguous, bool, array.is_contiguous())
VISGEN_QUESTION(aoti_torch_new_tensor_handle, AtenTensorHandle, handle_of(array))

AOTITorchError aoti_torch_get_device_type(AtenTensorHandle, int32_t* type) {
  *type = aoti_torch_device_type_cpu();
  return 0;
}
AOTITorchError aoti_torch_get_device_index(AtenTensorHandle, int32_t* index) {
  *index = -1;
  return 0;
}
AOTITorchError aoti_torch_get_size(AtenTensorHandle tensor, int64_t d, int64_t* size) {
  return answered([&] { *size = array_of(tensor).sizes.at(d < 0 ? d + array_of(tensor).sizes.size() : d); });
}
AOTITorchError aoti_torch_get_stride(AtenTensorHandle tensor, int64_t d, int64_t* stride) {
  return answered([&] { *stride = array_of(tensor).strides.at(d < 0 ? d + array_of(tensor).strides.size() : d); });
}
AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor) {
  delete &array_of(tensor);
  return 0;
}
AOTITorchError aoti_torch_aten_narrow(AtenTensorHandle tensor, int64_t d, int64_t start, int64_t length,
                                      AtenTensorHandle* result) {
  return answered([&] {
    Array array = array_of(tensor);
    const size_t place = d < 0 ? d + array.sizes.size() : d;
    array.sizes.at(place) = length;
    array.data += start * array.strides[place] * bytes_of(array.dtype);
    *result = handle_of(array);
  });
}

AOTITorchError torch_new_list_reserve_size(size_t, StableListHandle* list) {
  *list = reinterpret_cast<StableListHandle>(new std::vector<StableIValue>);
  return 0;
}
AOTITorchError torch_list_size(StableListHandle list, size_t* size) {
  *size = list_of(list).size();
  return 0;
}
AOTITorchError torch_list_get_item(StableListHandle list, size_t index, StableIValue* element) {
  return answered([&] { *element = list_of(list).at(index); });
}
AOTITorchError torch_list_push_back(StableListHandle list, StableIValue element) {
  list_of(list).push_back(element);
  return 0;
}
AOTITorchError torch_delete_list(StableListHandle list) {
  delete &list_of(list);
  return 0;
}

AOTITorchError torch_call_dispatcher(const char* name, const char*, StableIValue* stack, uint64_t) {
  return answered([&] { call(name, stack); });
}

// In two shares, as another thread would take one.
AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain, ParallelFunc body, void* context) {
  const int64_t middle = end - begin > grain ? begin + (end - begin + 1) / 2 : end;
  if (middle < end) body(middle, end, context);
  if (begin < middle) body(begin, middle, context);
  return 0;
}
AOTITorchError torch_get_num_threads(uint32_t* threads) {
  *threads = 1;
  return 0;
}

AOTITorchError aoti_torch_library_init_def(const char*, const char*, uint32_t, TorchLibraryHandle* library) {
  *library = nullptr;
  return 0;
}
AOTITorchError aoti_torch_library_init_impl(const char*, const char*, const char*, uint32_t,
                                            TorchLibraryHandle* library) {
  *library = nullptr;
  return 0;
}
AOTITorchError aoti_torch_library_def(TorchLibraryHandle, const char*) { return 0; }
AOTITorchError aoti_torch_delete_library_object(TorchLibraryHandle) { return 0; }
AOTITorchError torch_library_impl(TorchLibraryHandle, const char* name, Function function, uint64_t) {
  functions()[name] = function;
  return 0;
}
}
