// Exchanges between the 32 threads (lanes) of a warp, and the reductions of a block built on them.
//
// - `lane_index()`, `warp_index()`, `warps_per_block()`: of the thread's position in its block, x running fastest.
// - `shuffle(value, lane)`, `shuffle_xor(value, mask)`, `shuffle_down(value, delta)`, `shuffle_up(value, delta)`:
//   the value of another lane. Any trivially copyable type. Down and up return the lane's own value where no such
//   lane exists.
// - `ballot(predicate)`: bit l is lane l's answer; `any_lane`, `all_lanes`.
// - `sync_warp()`: a barrier of the warp; what its lanes wrote to memory before is visible to them after. Every
//   exchange above only exchanges: memory needs sync_warp().
// - `warp_reduce(value, combine)`, `warp_sum`, `warp_max`, `warp_min`: over all lanes, in the order of a butterfly,
//   the same bits in every lane and on every device. `warp_sum<8>(value)` reduces groups of 8 neighbouring lanes.
// - `block_reduce(value, combine, identity)`, `block_sum`, `block_max`: over all threads of a block, the same bits
//   in every thread. They contain barriers: all threads of the block call them.
//
// `members` names the lanes that take part, by default all 32: a block whose size is no multiple of 32, or whose
// threads have returned early, must say who is left. All lanes named must make the same call.
#pragma once

#include <cstring>
#include <type_traits>

#include "launch.cuh"

namespace visgen {

constexpr int kWarpSize = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

__device__ __forceinline__ int thread_in_block() {
  return static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
}

__device__ __forceinline__ int lane_index() { return thread_in_block() % kWarpSize; }

__device__ __forceinline__ int warp_index() { return thread_in_block() / kWarpSize; }

__device__ __forceinline__ int warps_per_block() {
  return static_cast<int>((blockDim.x * blockDim.y * blockDim.z + kWarpSize - 1) / kWarpSize);
}

// A launch of so many warps, in blocks of kBlockThreads; those behind the last one have nothing to do.
inline LaunchShape warp_grid(int64_t warps) {
  constexpr int kWarps = kBlockThreads / kWarpSize;
  return {dim3(static_cast<unsigned>((warps + kWarps - 1) / kWarps)), dim3(kBlockThreads)};
}

#ifdef __CUDACC__

namespace detail {

// Exchanges a value of any size as 32-bit words.
template <class T, class Exchange>
__device__ __forceinline__ T exchange_words(const T& value, Exchange exchange) {
  static_assert(std::is_trivially_copyable_v<T>, "only trivially copyable values travel between lanes");
  constexpr int words = (sizeof(T) + 3) / 4;
  uint32_t buffer[words] = {};
  memcpy(buffer, &value, sizeof(T));
#pragma unroll
  for (int i = 0; i < words; ++i) buffer[i] = exchange(buffer[i]);
  T result;
  memcpy(&result, buffer, sizeof(T));
  return result;
}

}  // namespace detail

template <class T>
__device__ __forceinline__ T shuffle(const T& value, int lane, uint32_t members = kAllLanes) {
  return detail::exchange_words(value, [=](uint32_t word) { return __shfl_sync(members, word, lane); });
}

template <class T>
__device__ __forceinline__ T shuffle_xor(const T& value, int mask, uint32_t members = kAllLanes) {
  return detail::exchange_words(value, [=](uint32_t word) { return __shfl_xor_sync(members, word, mask); });
}

template <class T>
__device__ __forceinline__ T shuffle_down(const T& value, int delta, uint32_t members = kAllLanes) {
  return detail::exchange_words(value, [=](uint32_t word) { return __shfl_down_sync(members, word, delta); });
}

template <class T>
__device__ __forceinline__ T shuffle_up(const T& value, int delta, uint32_t members = kAllLanes) {
  return detail::exchange_words(value, [=](uint32_t word) { return __shfl_up_sync(members, word, delta); });
}

__device__ __forceinline__ uint32_t ballot(bool predicate, uint32_t members = kAllLanes) {
  return __ballot_sync(members, predicate);
}

__device__ __forceinline__ void sync_warp(uint32_t members = kAllLanes) { __syncwarp(members); }

#else

template <class T>
__device__ __forceinline__ T shuffle(const T& value, int lane, uint32_t members = kAllLanes) {
  static_assert(std::is_trivially_copyable_v<T>, "only trivially copyable values travel between lanes");
  T result;
  host::shuffle(&value, &result, sizeof(T), lane % kWarpSize, members);
  return result;
}

template <class T>
__device__ __forceinline__ T shuffle_xor(const T& value, int mask, uint32_t members = kAllLanes) {
  return shuffle(value, lane_index() ^ mask, members);
}

template <class T>
__device__ __forceinline__ T shuffle_down(const T& value, int delta, uint32_t members = kAllLanes) {
  const int lane = lane_index() + delta;
  return shuffle(value, lane < kWarpSize ? lane : lane_index(), members);
}

template <class T>
__device__ __forceinline__ T shuffle_up(const T& value, int delta, uint32_t members = kAllLanes) {
  const int lane = lane_index() - delta;
  return shuffle(value, lane >= 0 ? lane : lane_index(), members);
}

__device__ __forceinline__ uint32_t ballot(bool predicate, uint32_t members = kAllLanes) {
  return host::ballot(predicate, members);
}

__device__ __forceinline__ void sync_warp(uint32_t members = kAllLanes) { host::sync_warp(members); }

#endif

__device__ __forceinline__ bool any_lane(bool predicate, uint32_t members = kAllLanes) {
  return ballot(predicate, members) != 0;
}

__device__ __forceinline__ bool all_lanes(bool predicate, uint32_t members = kAllLanes) {
  return ballot(predicate, members) == members;
}

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(const T& a, const T& b) const {
    return a + b;
  }
};

struct Maximum {
  template <class T>
  __device__ __forceinline__ T operator()(const T& a, const T& b) const {
    return a < b ? b : a;
  }
};

struct Minimum {
  template <class T>
  __device__ __forceinline__ T operator()(const T& a, const T& b) const {
    return b < a ? b : a;
  }
};

// Over groups of `lanes` neighbours. `combine` must be commutative, so that every lane finds the same bits.
template <int lanes = kWarpSize, class T, class Combine>
__device__ __forceinline__ T warp_reduce(T value, Combine combine) {
  static_assert(lanes > 0 && lanes <= kWarpSize && (lanes & (lanes - 1)) == 0);
#pragma unroll
  for (int mask = lanes / 2; mask > 0; mask /= 2) value = combine(value, shuffle_xor(value, mask));
  return value;
}

template <int lanes = kWarpSize, class T>
__device__ __forceinline__ T warp_sum(T value) {
  return warp_reduce<lanes>(value, Sum());
}

template <int lanes = kWarpSize, class T>
__device__ __forceinline__ T warp_max(T value) {
  return warp_reduce<lanes>(value, Maximum());
}

template <int lanes = kWarpSize, class T>
__device__ __forceinline__ T warp_min(T value) {
  return warp_reduce<lanes>(value, Minimum());
}

// The block's size must be a multiple of 32.
template <class T, class Combine>
__device__ __forceinline__ T block_reduce(T value, Combine combine, T identity) {
  VISGEN_SHARED(T, partial, kWarpSize);
  value = warp_reduce(value, combine);
  if (lane_index() == 0) partial[warp_index()] = value;
  sync_block();
  value = lane_index() < warps_per_block() ? partial[lane_index()] : identity;
  sync_block();  // the next call may overwrite `partial`
  return warp_reduce(value, combine);
}

template <class T>
__device__ __forceinline__ T block_sum(T value) {
  return block_reduce(value, Sum(), T(0));
}

template <class T>
__device__ __forceinline__ T block_max(T value, T lowest) {
  return block_reduce(value, Maximum(), lowest);
}

}  // namespace visgen
