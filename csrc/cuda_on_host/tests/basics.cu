// The functions of launch.cuh, warp.cuh and vec.cuh, with results that the tests compute anew. Compiles for a GPU, too.
#include <string_view>

#include "../../cuda/launch.cuh"
#include "../../cuda/vec.cuh"
#include "../../cuda/warp.cuh"
#include "runner.h"

namespace visgen {
namespace {

// A value that takes three registers.
struct Triple {
  int64_t index;
  float value;
};

// x[threads] → y[16][threads], in one block of any shape.
__global__ void exchange(const float* x, float* y, int threads) {
  const int thread = thread_in_block();
  const float value = x[thread];
  const auto keep = [&](int row, auto result) { y[row * threads + thread] = static_cast<float>(result); };
  keep(0, shuffle(value, 5));
  keep(1, shuffle(value, lane_index() * 7 % 32));
  keep(2, shuffle_xor(value, 9));
  keep(3, shuffle_down(value, 3));
  keep(4, shuffle_up(value, 3));
  keep(5, ballot(value > 0.0f) % 65536);
  keep(6, any_lane(value > 1.9f));
  keep(7, all_lanes(value > -1.9f));
  keep(8, warp_sum(value));
  keep(9, warp_sum<8>(value));
  keep(10, warp_max(value));
  keep(11, warp_min<4>(value));
  keep(12, block_sum(value));
  keep(15, block_sum(2.0f * value));
  keep(13, block_max(value, -1.0e30f));
  const Triple other = shuffle_xor(Triple{thread, value}, 1);
  keep(14, static_cast<float>(other.index) + other.value);
}

// Half of each warp leaves, the other half goes on without it.
__global__ void exchange_among_half(float* y) {
  if (lane_index() >= 16) return;
  constexpr uint32_t members = 0x0000ffffu;
  const float sum = static_cast<float>(lane_index()) + shuffle_xor(static_cast<float>(lane_index()), 8, members);
  sync_warp(members);
  y[threadIdx.x] = ballot(lane_index() % 3 == 0, members) == 0x9249u ? sum : -1.0f;
}

// Every block adds its threads' numbers to one sum. The block that comes last writes it: integers, so in any order.
__global__ void add_up(int64_t* total, unsigned* arrived, int64_t* result) {
  VISGEN_SHARED(int, of_block, 1);
  VISGEN_SHARED(bool, is_last, 1);
  if (threadIdx.x == 0) of_block[0] = 0;
  sync_block();
  atomic_add(&of_block[0], static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x));
  sync_block();
  if (threadIdx.x == 0) {
    atomic_add(total, of_block[0]);
    fence_device();
    is_last[0] = atomic_add(arrived, 1u) == gridDim.x - 1;
  }
  sync_block();
  if (is_last[0] && threadIdx.x == 0) result[0] = atomic_add(total, 0);
}

// Copies x to y with whole vectors and a tail, through float.
template <class T>
__global__ void round_trip(const T* x, T* y, int64_t count) {
  constexpr int N = kWideLanes<T>;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (i + N <= count) {
    store_vec_streaming(y + i, convert<T>(convert<Compute<T>>(load_vec_streaming<N>(x + i))));
  } else if (i < count) {
    store_tail(y + i, count - i, convert<T>(convert<Compute<T>>(load_tail<N>(x + i, count - i, T(0)))));
  }
}

template <class T>
__global__ void convert_from_float(const float* x, T* y) {
  const unsigned i = 16 * (blockIdx.x * blockDim.x + threadIdx.x);
  store_vec(y + i, convert<T>(load_vec<16>(x + i)));
}

__constant__ const float table[4] = {1.0f, 0.5f, 0.25f, 0.125f};

__global__ void look_up(float* y) { y[threadIdx.x] = table[threadIdx.x % 4]; }

// Writes the coordinates of each thread where its position says.
__global__ void coordinates(int32_t* y) {
  const dim3 grid(gridDim.x, gridDim.y, gridDim.z), block(blockDim.x, blockDim.y, blockDim.z);
  const unsigned of_block = blockIdx.x + grid.x * (blockIdx.y + grid.y * blockIdx.z);
  const unsigned of_thread = threadIdx.x + block.x * (threadIdx.y + block.y * threadIdx.z);
  const unsigned coordinates[6] = {blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z};
  for (int i = 0; i < 6; ++i) {
    y[(of_block * block.x * block.y * block.z + of_thread) * 6 + i] = static_cast<int32_t>(coordinates[i]);
  }
}

template <class T>
void run_round_trip(const void* x, void* y, int64_t count) {
  constexpr int64_t per_block = 64 * kWideLanes<T>;
  launch<round_trip<T>>({dim3(static_cast<unsigned>((count + per_block - 1) / per_block)), dim3(64)}, Stream(),
                        static_cast<const T*>(x), static_cast<T*>(y), count);
}

}  // namespace
}  // namespace visgen

using namespace visgen;

VISGEN_TEST visgen_test_exchange(const float* x, float* y, unsigned width, unsigned height) {
  return run_test(
      [=] { launch<exchange>({dim3(1), dim3(width, height)}, Stream(), x, y, static_cast<int>(width * height)); });
}

VISGEN_TEST visgen_test_exchange_among_half(float* y, unsigned threads) {
  return run_test([=] { launch<exchange_among_half>({dim3(1), dim3(threads)}, Stream(), y); });
}

VISGEN_TEST visgen_test_add_up(int64_t* total, unsigned* arrived, int64_t* result, unsigned blocks, unsigned threads) {
  return run_test([=] { launch<add_up>({dim3(blocks), dim3(threads)}, Stream(), total, arrived, result); });
}

VISGEN_TEST visgen_test_round_trip(const char* type, const void* x, void* y, int64_t count) {
  return run_test([=] {
    const std::string_view name = type;
    if (name == "float32") return run_round_trip<float>(x, y, count);
    if (name == "float64") return run_round_trip<double>(x, y, count);
    if (name == "float16") return run_round_trip<Half>(x, y, count);
    if (name == "bfloat16") return run_round_trip<BFloat16>(x, y, count);
    if (name == "uint8") return run_round_trip<uint8_t>(x, y, count);
  });
}

// x has 1024 elements.
VISGEN_TEST visgen_test_convert(const float* x, void* half, void* bfloat16) {
  return run_test([=] {
    launch<convert_from_float<Half>>({dim3(1), dim3(64)}, Stream(), x, static_cast<Half*>(half));
    launch<convert_from_float<BFloat16>>({dim3(1), dim3(64)}, Stream(), x, static_cast<BFloat16*>(bfloat16));
  });
}

VISGEN_TEST visgen_test_look_up(float* y, unsigned threads) {
  return run_test([=] { launch<look_up>({dim3(1), dim3(threads)}, Stream(), y); });
}

VISGEN_TEST visgen_test_coordinates(int32_t* y, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                    unsigned block_y, unsigned block_z) {
  const LaunchShape shape{dim3(grid_x, grid_y, grid_z), dim3(block_x, block_y, block_z)};
  return run_test([=] { launch<coordinates>(shape, Stream(), y); });
}
