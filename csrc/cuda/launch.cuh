// Launching kernels, and what every kernel stands on: indices, barriers, shared memory, integer atomics.
//
// This header and its neighbours warp.cuh, vec.cuh and mma.cuh are the only files that know the CUDA toolkit. Each
// has two halves: one for nvcc, and one for an ordinary C++ compiler, where ../cuda_on_host runs every thread of a
// block as a fibre. A kernel that uses nothing but these four headers is therefore tested on machines without a
// GPU, and `make lint` holds it to that. A whole kernel:
//
//   #include "launch.cuh"
//   #include "warp.cuh"
//
//   namespace visgen {
//   namespace {
//
//   __global__ void __launch_bounds__(256) row_sums(const float* x, float* sums, int64_t columns) {
//     const float* row = x + blockIdx.x * columns;
//     float sum = 0.0f;
//     for (int64_t column = threadIdx.x; column < columns; column += blockDim.x) sum += row[column];
//     sum = block_sum(sum);
//     if (threadIdx.x == 0) sums[blockIdx.x] = sum;
//   }
//
//   }  // namespace
//
//   void launch_row_sums(const float* x, float* sums, int64_t rows, int64_t columns, Stream stream) {
//     launch<row_sums>({.grid = dim3(rows), .block = dim3(256)}, stream, x, sums, columns);
//   }
//
//   }  // namespace visgen
//
// - `__global__`, `__device__`, `__launch_bounds__`, `__forceinline__`, `threadIdx`, `blockIdx`, `blockDim`,
//   `gridDim` and `dim3` are CUDA's. A table is `__constant__ const float table[4] = {…};` at namespace scope.
// - `launch<kernel>(shape, stream, arguments…)` converts the arguments to the kernel's parameters, raises the limit
//   of dynamic shared memory where the shape needs it, and throws a std::runtime_error of one sentence that names
//   the kernel when CUDA refuses. A shape without threads or blocks launches nothing.
// - Static shared memory: `VISGEN_SHARED(float, tile, 32 * 33);` declares the array `tile`, shared by the block.
//   The type may itself be an array: `VISGEN_SHARED(float[33], tile, 32);`. A type with a comma needs an alias
//   first.
// - Dynamic shared memory: `dynamic_shared<float>()` points to the `dynamic_shared_bytes` of the launch, aligned to
//   128 bytes; `shared_memory_limit(device)` is the most that a block may have, static and dynamic together.
// - Shared memory starts with arbitrary bytes. All threads of a block call `sync_block()`; none may have returned
//   before.
// - `atomic_add` exists for integers only: sums of floats in arbitrary order would not be reproducible.
//   `fence_device()` orders a thread's writes for threads of other blocks.
// - Code that runs on the CPU before a launch makes the tensors' device current with `const OnDevice on(device)`, sizes
//   its grid with `multiprocessor_count(device)`, and passes `on.stream`: torch's stream, so that nothing needs a
//   synchronisation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#else
#include "../cuda_on_host/emulation.h"
#endif

namespace visgen {

constexpr int kBlockThreads = 256;  // where nothing asks for another number

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t dynamic_shared_bytes = 0;
};

namespace detail {

template <class Kernel>
struct Signature;

template <class... Parameters>
struct Signature<void (*)(Parameters...)> {
  static constexpr size_t arity = sizeof...(Parameters);
  using Values = std::tuple<std::remove_cv_t<Parameters>...>;
};

// The kernel's name and template arguments, without its namespace, for messages.
template <auto kernel>
std::string_view kernel_name() {
  std::string_view name = __PRETTY_FUNCTION__;
  const std::string_view label = "kernel = ";
  name.remove_prefix(name.find(label) + label.size());
  name = name.substr(0, name.rfind("; std::"));  // g++ goes on to explain std::string_view
  name = name.substr(0, name.rfind(']'));
  const size_t scope = name.substr(0, name.find('<')).rfind(':');
  return scope == name.npos ? name : name.substr(scope + 1);
}

inline bool is_empty(const LaunchShape& shape) {
  const dim3 &grid = shape.grid, &block = shape.block;
  return grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0;
}

}  // namespace detail

#ifdef __CUDACC__

using Stream = cudaStream_t;

namespace detail {

inline void check_cuda(cudaError_t status, std::string_view what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the error is reported here, so the next call must not see it
  throw std::runtime_error(std::string(what) + ": CUDA says \"" + cudaGetErrorString(status) + "\".");
}

inline int device_attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, attribute, device), "reading an attribute of the device");
  return value;
}

constexpr size_t kSharedBytesWithoutAsking = 48 * 1024;

}  // namespace detail

template <auto kernel, class... Arguments>
void launch(const LaunchShape& shape, Stream stream, const Arguments&... arguments) {
  using KernelSignature = detail::Signature<decltype(kernel)>;
  static_assert(sizeof...(Arguments) == KernelSignature::arity,
                "launch: one argument for each parameter of the kernel");
  if (detail::is_empty(shape)) return;
  const void* function = reinterpret_cast<const void*>(kernel);
  if (shape.dynamic_shared_bytes > detail::kSharedBytesWithoutAsking) {
    detail::check_cuda(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(shape.dynamic_shared_bytes)),
                       detail::kernel_name<kernel>());
  }
  typename KernelSignature::Values values(arguments...);
  const cudaError_t status = std::apply(
      [&](auto&... value) {
        void* pointers[] = {const_cast<void*>(static_cast<const void*>(&value))..., nullptr};
        return cudaLaunchKernel(function, shape.grid, shape.block, pointers, shape.dynamic_shared_bytes, stream);
      },
      values);
  detail::check_cuda(status, detail::kernel_name<kernel>());
}

inline Stream current_stream(int device) {
  void* stream = nullptr;
  if (aoti_torch_get_current_cuda_stream(device, &stream) != AOTI_TORCH_SUCCESS) {
    throw std::runtime_error("torch knows no current stream of device " + std::to_string(device) + ".");
  }
  return static_cast<Stream>(stream);
}

// Makes `device` the current one for the life of the object, as a launch goes to the current device whatever its
// stream; and knows torch's stream there.
class OnDevice {
 public:
  explicit OnDevice(int device) : guard_(device), stream(current_stream(device)) {}

 private:
  torch::stable::accelerator::DeviceGuard guard_;

 public:
  const Stream stream;
};

inline int multiprocessor_count(int device) { return detail::device_attribute(cudaDevAttrMultiProcessorCount, device); }

inline size_t shared_memory_limit(int device) {
  return detail::device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
}

__device__ __forceinline__ void sync_block() { __syncthreads(); }

__device__ __forceinline__ void fence_device() { __threadfence(); }

#define VISGEN_SHARED(type, name, count) __shared__ std::type_identity_t<type> name[count]

template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char visgen_dynamic_shared[];
  return reinterpret_cast<T*>(visgen_dynamic_shared);
}

// Adds, and returns the value before. Signed numbers wrap around like unsigned ones.
template <class Integer>
__device__ __forceinline__ Integer atomic_add(Integer* address, std::type_identity_t<Integer> value) {
  static_assert(std::is_integral_v<Integer> && (sizeof(Integer) == 4 || sizeof(Integer) == 8));
  using Word = std::conditional_t<sizeof(Integer) == 4, unsigned, unsigned long long>;
  return static_cast<Integer>(atomicAdd(reinterpret_cast<Word*>(address), static_cast<Word>(value)));
}

#else

using Stream = host::Stream;

template <auto kernel, class... Arguments>
void launch(const LaunchShape& shape, Stream, const Arguments&... arguments) {
  using KernelSignature = detail::Signature<decltype(kernel)>;
  static_assert(sizeof...(Arguments) == KernelSignature::arity,
                "launch: one argument for each parameter of the kernel");
  if (detail::is_empty(shape)) return;
  const typename KernelSignature::Values values(arguments...);
  const auto run_thread = [](const void* pointer) {
    std::apply(kernel, *static_cast<const typename KernelSignature::Values*>(pointer));
  };
  host::launch(detail::kernel_name<kernel>(), shape.grid, shape.block, shape.dynamic_shared_bytes, run_thread, &values,
               sizeof(values));
}

inline Stream current_stream(int) { return {}; }

struct OnDevice {
  explicit OnDevice(int) {}
  const Stream stream{};
};

inline int multiprocessor_count(int) { return host::kMultiprocessorCount; }

inline size_t shared_memory_limit(int) { return host::kSharedMemoryLimit; }

__device__ __forceinline__ void sync_block() { host::sync_block(); }

__device__ __forceinline__ void fence_device() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

#define VISGEN_SHARED(type, name, count)                                                           \
  static const char visgen_site_of_##name = 0;                                                     \
  auto& name = *static_cast<std::type_identity_t<type>(*)[count]>(::visgen::host::shared_variable( \
      &visgen_site_of_##name, sizeof(std::type_identity_t<type>[count]), alignof(std::type_identity_t<type>), #name))

template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  return static_cast<T*>(host::dynamic_shared());
}

template <class Integer>
__device__ __forceinline__ Integer atomic_add(Integer* address, std::type_identity_t<Integer> value) {
  static_assert(std::is_integral_v<Integer> && (sizeof(Integer) == 4 || sizeof(Integer) == 8));
  using Word = std::make_unsigned_t<Integer>;
  return static_cast<Integer>(host::atomic_add(reinterpret_cast<Word*>(address), static_cast<Word>(value)));
}

#endif

}  // namespace visgen
