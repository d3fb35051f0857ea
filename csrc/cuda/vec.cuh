// Wide loads and stores, and conversions between element types.
//
// `Vec<T, N>` is N elements that travel in one memory instruction (N a power of two; above 16 bytes in several of
// 16). T is an arithmetic type, or torch's 16-bit floats Half and BFloat16, which convert to and from float.
//
//   constexpr int N = kWideLanes<T>;                            // elements in 16 bytes
//   Vec<T, N> v = load_vec<N>(x + i);                           // x + i aligned to 16 bytes
//   Vec<float, N> f = convert<float>(v);
//   for (int k = 0; k < N; ++k) f[k] *= 2.0f;
//   store_vec(y + i, convert<T>(f));
//
// - `load_vec` and `store_vec` need an address aligned to the vector (to 16 bytes if it is larger):
//   `is_vec_aligned<N>(x)` asks, on the CPU or in a kernel, whether x is. On a GPU a misaligned access ends the
//   kernel; on the host it is reported.
// - `load_vec_streaming` and `store_vec_streaming` say that the data will not be touched again and need not stay in
//   cache.
// - `load_tail<N>(x + i, count, fill)` and `store_tail(y + i, count, v)` touch only the first `count` elements (0 …
//   N), one by one, at any address: for the end of a row.
// - `rounded_product(a, b)` is a product that no compiler contracts with a sum.
// - `convert<To>(v)` rounds to nearest even. Arithmetic is done in float (in double for double): `Compute<T>` names
//   that.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

#include "launch.cuh"

namespace visgen {

using Half = c10::Half;
using BFloat16 = c10::BFloat16;

constexpr int kWideBytes = 16;

template <class T>
constexpr int kWideLanes = kWideBytes / static_cast<int>(sizeof(T));

template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T, int N>
struct alignas(sizeof(T) * N < kWideBytes ? sizeof(T) * N : kWideBytes) Vec {
  static_assert(N > 0 && (N & (N - 1)) == 0, "the size of a vector is a power of two");
  T lanes[N];

  __host__ __device__ __forceinline__ T& operator[](int i) { return lanes[i]; }
  __host__ __device__ __forceinline__ const T& operator[](int i) const { return lanes[i]; }
};

template <int N, class T>
__host__ __device__ __forceinline__ bool is_vec_aligned(const T* address) {
  return reinterpret_cast<uintptr_t>(address) % alignof(Vec<T, N>) == 0;
}

template <class To, class From>
__host__ __device__ __forceinline__ To convert(const From& value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (std::is_arithmetic_v<To> && std::is_arithmetic_v<From>) {
    return static_cast<To>(value);
  } else {
    return static_cast<To>(static_cast<float>(value));
  }
}

template <class To, class From, int N>
__host__ __device__ __forceinline__ Vec<To, N> convert(const Vec<From, N>& value) {
  Vec<To, N> result;
  for (int i = 0; i < N; ++i) result[i] = convert<To>(value[i]);
  return result;
}

template <int N, class T>
__device__ __forceinline__ Vec<std::remove_const_t<T>, N> load_tail(T* address, int64_t count,
                                                                    std::remove_const_t<T> fill) {
  Vec<std::remove_const_t<T>, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result[i] = i < count ? address[i] : fill;
  return result;
}

template <class T, int N>
__device__ __forceinline__ void store_tail(T* address, int64_t count, const Vec<T, N>& value) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (i < count) address[i] = value[i];
  }
}

#ifdef __CUDACC__

// a·b, rounded by itself: what adds it to another number is not contracted with it.
__device__ __forceinline__ float rounded_product(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double rounded_product(double a, double b) { return __dmul_rn(a, b); }

namespace detail {

template <int bytes>
struct WordOf;
template <>
struct WordOf<1> {
  using type = unsigned char;
};
template <>
struct WordOf<2> {
  using type = unsigned short;
};
template <>
struct WordOf<4> {
  using type = unsigned;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};

// Copies a vector in the fewest accesses: `load` and `store` are given addresses of the machine's own types.
template <class V, class Load, class Store>
__device__ __forceinline__ void copy_words(V* to, const V* from, Load load, Store store) {
  using Word = typename WordOf<alignof(V)>::type;
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(V) / sizeof(Word)); ++i) {
    store(reinterpret_cast<Word*>(to) + i, load(reinterpret_cast<const Word*>(from) + i));
  }
}

struct Plain {
  template <class Word>
  __device__ __forceinline__ Word operator()(const Word* address) const {
    return *address;
  }
  template <class Word>
  __device__ __forceinline__ void operator()(Word* address, Word value) const {
    *address = value;
  }
};

struct Streaming {
  template <class Word>
  __device__ __forceinline__ Word operator()(const Word* address) const {
    return __ldcs(address);
  }
  template <class Word>
  __device__ __forceinline__ void operator()(Word* address, Word value) const {
    __stcs(address, value);
  }
};

}  // namespace detail

template <int N, class T>
__device__ __forceinline__ Vec<std::remove_const_t<T>, N> load_vec(T* address) {
  Vec<std::remove_const_t<T>, N> result;
  detail::copy_words(&result, reinterpret_cast<const decltype(result)*>(address), detail::Plain(), detail::Plain());
  return result;
}

template <class T, int N>
__device__ __forceinline__ void store_vec(T* address, const Vec<T, N>& value) {
  detail::copy_words(reinterpret_cast<Vec<T, N>*>(address), &value, detail::Plain(), detail::Plain());
}

template <int N, class T>
__device__ __forceinline__ Vec<std::remove_const_t<T>, N> load_vec_streaming(T* address) {
  Vec<std::remove_const_t<T>, N> result;
  detail::copy_words(&result, reinterpret_cast<const decltype(result)*>(address), detail::Streaming(), detail::Plain());
  return result;
}

template <class T, int N>
__device__ __forceinline__ void store_vec_streaming(T* address, const Vec<T, N>& value) {
  detail::copy_words(reinterpret_cast<Vec<T, N>*>(address), &value, detail::Plain(), detail::Streaming());
}

#else

template <class Real>
__device__ __forceinline__ Real rounded_product(Real a, Real b) {
  const volatile Real product = a * b;
  return product;
}

template <int N, class T>
__device__ __forceinline__ Vec<std::remove_const_t<T>, N> load_vec(T* address) {
  Vec<std::remove_const_t<T>, N> result;
  host::check_alignment(address, alignof(decltype(result)));
  for (int i = 0; i < N; ++i) result[i] = address[i];
  return result;
}

template <class T, int N>
__device__ __forceinline__ void store_vec(T* address, const Vec<T, N>& value) {
  host::check_alignment(address, alignof(Vec<T, N>));
  for (int i = 0; i < N; ++i) address[i] = value[i];
}

template <int N, class T>
__device__ __forceinline__ Vec<std::remove_const_t<T>, N> load_vec_streaming(T* address) {
  return load_vec<N>(address);
}

template <class T, int N>
__device__ __forceinline__ void store_vec_streaming(T* address, const Vec<T, N>& value) {
  store_vec(address, value);
}

#endif

}  // namespace visgen
