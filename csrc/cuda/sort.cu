// A radix sort, 8 bits at a time from the lowest: for each byte that the largest key has, the blocks count their bytes,
// one block adds up where each byte of each block begins, and the blocks write keys and places there. A pass reads the
// keys twice and the places once, and writes both: 20 bytes a key. Counted: no GPU has measured what share of the
// memory's speed that reaches.
#include "sort.h"

#include "launch.cuh"
#include "warp.cuh"

namespace visgen {
namespace {

constexpr int kBins = 256, kSortThreads = 256, kRounds = 8;  // a thread a bin
constexpr int kNumbers = 16;                                 // that a thread adds up in a turn; a divisor of kBins
constexpr int kBlockKeys = kSortThreads * kRounds, kSortWarps = kSortThreads / kWarpSize;

__device__ __forceinline__ int count_bits(uint32_t word) {
  word -= word >> 1 & 0x55555555u;
  word = (word & 0x33333333u) + (word >> 2 & 0x33333333u);
  return static_cast<int>(((word + (word >> 4)) & 0x0F0F0F0Fu) * 0x01010101u >> 24);
}

__device__ __forceinline__ int bin_of(uint32_t key, int shift) { return static_cast<int>(key >> shift & (kBins - 1)); }

// begins[bin, block] = the keys of the block in that bin.
__global__ void __launch_bounds__(kSortThreads)
    count_bins(const uint32_t* keys, int64_t count, int shift, int64_t* begins) {
  VISGEN_SHARED(int, bins, kBins);
  bins[threadIdx.x] = 0;
  sync_block();
  for (int round = 0; round < kRounds; ++round) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockKeys + round * kSortThreads + threadIdx.x;
    if (i < count) atomic_add(&bins[bin_of(keys[i], shift)], 1);
  }
  sync_block();
  begins[threadIdx.x * static_cast<int64_t>(gridDim.x) + blockIdx.x] = bins[threadIdx.x];
}

// Replaces each number by the sum of those before it. One block; `count` is a multiple of kBins.
__global__ void __launch_bounds__(kSortThreads) add_up(int64_t* numbers, int64_t count) {
  VISGEN_SHARED(int64_t, totals, kSortWarps);
  int64_t before = 0;
  for (int64_t begin = 0; begin < count; begin += kSortThreads * kNumbers) {
    const int64_t i = begin + threadIdx.x * kNumbers;
    int64_t own[kNumbers], number = 0;
    for (int j = 0; j < kNumbers; ++j) {
      own[j] = i < count ? numbers[i + j] : 0;
      number += own[j];
    }
    int64_t sum = number;  // up to this lane
    for (int delta = 1; delta < kWarpSize; delta *= 2) {
      const int64_t other = shuffle_up(sum, delta);
      if (lane_index() >= delta) sum += other;
    }
    if (lane_index() == kWarpSize - 1) totals[warp_index()] = sum;
    sync_block();
    int64_t of_turn = 0;
    for (int warp = 0; warp < kSortWarps; ++warp) {
      if (warp < warp_index()) sum += totals[warp];
      of_turn += totals[warp];
    }
    sum += before - number;
    before += of_turn;
    for (int j = 0; j < kNumbers; ++j) {
      if (i < count) numbers[i + j] = sum;
      sum += own[j];
    }
    sync_block();  // the next turn overwrites `totals`
  }
}

// Keys and places move to where their bin of this block begins, in the order in which they stand.
__global__ void __launch_bounds__(kSortThreads)
    scatter(const uint32_t* keys, const uint32_t* places, int64_t count, int shift, const int64_t* begins,
            uint32_t* keys_to, uint32_t* places_to) {
  VISGEN_SHARED(int[kBins], of_warp, kSortWarps);                                      // keys of each bin in a round
  VISGEN_SHARED(int64_t[kBins], to, kSortWarps);                                       // where the first of them goes
  int64_t begin = begins[threadIdx.x * static_cast<int64_t>(gridDim.x) + blockIdx.x];  // of the thread's bin
  for (int round = 0; round < kRounds; ++round) {
    for (int warp = 0; warp < kSortWarps; ++warp) of_warp[warp][threadIdx.x] = 0;
    sync_block();
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockKeys + round * kSortThreads + threadIdx.x;
    const bool exists = i < count;
    const uint32_t key = exists ? keys[i] : 0;
    uint32_t same = ballot(exists);  // lanes with the same bin
    for (int bit = 0; bit < 8; ++bit) {
      const bool set = (key >> (shift + bit) & 1) != 0;
      const uint32_t setters = ballot(set);
      same &= set ? setters : ~setters;
    }
    const int before = count_bits(same & ((1u << lane_index()) - 1));
    const int bin = bin_of(key, shift);
    if (exists && before == 0) of_warp[warp_index()][bin] = count_bits(same);
    sync_block();
    for (int warp = 0; warp < kSortWarps; ++warp) {
      to[warp][threadIdx.x] = begin;
      begin += of_warp[warp][threadIdx.x];
    }
    sync_block();
    if (exists) {
      const int64_t place = to[warp_index()][bin] + before;
      keys_to[place] = key;
      places_to[place] = places ? places[i] : static_cast<uint32_t>(i);
    }
  }
}

}  // namespace

SortedKeys sort_keys(uint32_t* keys, int64_t count, uint32_t largest, const Tensor& like) {
  const Stream stream = current_stream(like.get_device_index());
  const unsigned blocks = static_cast<unsigned>((count + kBlockKeys - 1) / kBlockKeys);
  const LaunchShape shape{dim3(blocks), dim3(kSortThreads)};
  SortedKeys sorted;
  const auto numbers = [&](int64_t size, ScalarType type) {
    sorted.memory.push_back(empty_on(like, {size}, type));
    return sorted.memory.back().mutable_data_ptr();
  };
  uint32_t* keys_from = keys;
  uint32_t* keys_to = static_cast<uint32_t*>(numbers(count, ScalarType::Int));
  uint32_t* places_from = nullptr;  // at first every key is in its place
  uint32_t* places_to = static_cast<uint32_t*>(numbers(count, ScalarType::Int));
  uint32_t* spare = static_cast<uint32_t*>(numbers(count, ScalarType::Int));
  int64_t* begins = static_cast<int64_t*>(numbers(int64_t{kBins} * blocks, ScalarType::Long));
  for (int shift = 0; shift < 32 && (shift == 0 || largest >> shift != 0); shift += 8) {
    launch<count_bins>(shape, stream, keys_from, count, shift, begins);
    launch<add_up>({dim3(1), dim3(kSortThreads)}, stream, begins, int64_t{kBins} * blocks);
    launch<scatter>(shape, stream, keys_from, places_from, count, shift, begins, keys_to, places_to);
    std::swap(keys_from, keys_to);
    std::swap(places_from, places_to);
    if (places_to == nullptr) places_to = spare;
  }
  sorted.keys = keys_from;
  sorted.places = places_from;
  return sorted;
}

}  // namespace visgen
