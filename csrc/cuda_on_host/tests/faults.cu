// Kernels that are wrong on purpose, each beside its right version. A comment "fault: name" marks the line that a
// report must name. All of them work on one buffer of `count` floats, with one block of 64 threads unless they say
// otherwise.
#include <string_view>

#include "../../cuda/launch.cuh"
#include "../../cuda/mma.cuh"
#include "../../cuda/vec.cuh"
#include "../../cuda/warp.cuh"
#include "runner.h"

namespace visgen {
namespace {

template <bool right>
__global__ void barrier_not_reached(float* x, int64_t count) {
  if (right || threadIdx.x < 33) {
    sync_block();  // fault: barrier_not_reached
  }
  if (threadIdx.x < count) x[threadIdx.x] = 1.0f;
}

template <bool right>
__global__ void barriers_mixed_up(float* x, int64_t count) {
  if (right || threadIdx.x < 33) {
    sync_block();
  } else {
    sync_block();  // fault: barriers_mixed_up
  }
  if (threadIdx.x < count) x[threadIdx.x] = 1.0f;
}

template <bool right>
__global__ void unwritten_read(float* x, int64_t count) {
  VISGEN_SHARED(float, tile, 64);
  if (right || threadIdx.x != 7) tile[threadIdx.x] = x[threadIdx.x % count];
  sync_block();
  const float value = tile[threadIdx.x ^ 1];  // fault: unwritten_read
  if (threadIdx.x < count) x[threadIdx.x] = value;
}

template <bool right>
__global__ void out_of_bounds(float* x, int64_t count) {
  const int64_t stride = blockDim.x;
  for (int64_t i = threadIdx.x; right ? i < count : i <= count; i += stride) {
    x[i] *= 2.0f;  // fault: out_of_bounds
  }
}

template <bool right>
__global__ void out_of_bounds_in_shared_memory(float* x, int64_t count) {
  VISGEN_SHARED(float, tile, 64);
  VISGEN_SHARED(float, neighbour, 64);
  neighbour[threadIdx.x] = 0.0f;
  tile[threadIdx.x + (right ? 0 : 1)] = 1.0f;  // fault: out_of_bounds_in_shared_memory
  if (threadIdx.x < count) x[threadIdx.x] = neighbour[threadIdx.x];
}

template <bool right>
__global__ void out_of_bounds_in_dynamic_memory(float* x, int64_t count) {
  float* tile = dynamic_shared<float>();
  for (unsigned i = threadIdx.x; i < 128; i += blockDim.x) {
    tile[i + (right ? 0 : 1)] = 1.0f;  // fault: out_of_bounds_in_dynamic_memory
  }
  if (threadIdx.x < count) x[threadIdx.x] = 1.0f;
}

template <bool right>
__global__ void missing_barrier(float* x, int64_t count) {
  VISGEN_SHARED(float, tile, 64);
  tile[threadIdx.x] = static_cast<float>(threadIdx.x);  // fault: missing_barrier
  if (right) sync_block();
  const float value = tile[63 - threadIdx.x];  // fault: missing_barrier
  if (threadIdx.x < count) x[threadIdx.x] = value;
}

// Only the next turn of the loop overwrites what a slow warp still reads.
template <bool right>
__global__ void missing_second_barrier(float* x, int64_t count) {
  VISGEN_SHARED(float, tile, 64);
  float sum = 0.0f;
  for (int turn = 0; turn < 3; ++turn) {
    tile[threadIdx.x] = static_cast<float>(turn);  // fault: missing_second_barrier
    sync_block();
    sum += tile[63 - threadIdx.x];  // fault: missing_second_barrier
    if (right) sync_block();
  }
  if (threadIdx.x < count) x[threadIdx.x] = sum;
}

template <bool right>
__global__ void missing_warp_barrier(float* x, int64_t count) {
  VISGEN_SHARED(float, tile, 64);
  tile[threadIdx.x] = 1.0f;  // fault: missing_warp_barrier
  if (right) sync_warp();
  const float value = tile[threadIdx.x ^ 1];  // fault: missing_warp_barrier
  if (threadIdx.x < count) x[threadIdx.x] = value;
}

template <bool right>
__global__ void misaligned_load(float* x, int64_t) {
  if (threadIdx.x == 0) {
    const Vec<float, 4> value = load_vec<4>(x + (right ? 4 : 1));  // fault: misaligned_load
    store_vec(x, value);
  }
}

template <bool right>
__global__ void exchange_not_reached(float* x, int64_t count) {
  float value = 1.0f;
  if (right || lane_index() < 16) {
    value = shuffle_xor(value, 1);  // fault: exchange_not_reached
  }
  if (threadIdx.x < count) x[threadIdx.x] = value;
}

template <bool right>
__global__ void shuffle_from_nobody(float* x, int64_t count) {
  if (lane_index() >= 16) return;
  const float value = shuffle(1.0f, right ? 3 : 20, 0x0000ffffu);  // fault: shuffle_from_nobody
  if (threadIdx.x < count) x[threadIdx.x] = value;
}

template <bool right>
__global__ void copy_not_awaited(float* x, int64_t count) {
  float* tile = dynamic_shared<float>();
  if (threadIdx.x == 0) {
    copy_async(tile, x);
    commit_copies();
    if (right) wait_copies<0>();
  }
  sync_block();
  const float value = tile[threadIdx.x % 4];  // fault: copy_not_awaited
  if (threadIdx.x < count) x[threadIdx.x] = value;
}

// Two blocks.
template <bool right>
__global__ void race_between_blocks(float* x, int64_t count) {
  const unsigned i = threadIdx.x + (right ? blockIdx.x * blockDim.x : 0);
  if (i < count) x[i] = 1.0f;  // fault: race_between_blocks
}

template <bool right>
__global__ void addition_not_atomic(float* x, int64_t) {
  VISGEN_SHARED(int, total, 1);
  if (threadIdx.x == 0) total[0] = 0;
  sync_block();
  if (right) {
    atomic_add(&total[0], 1);
  } else {
    total[0] += 1;  // fault: addition_not_atomic
  }
  sync_block();
  if (threadIdx.x == 0) x[0] = static_cast<float>(total[0]);
}

template <bool right>
__global__ void null_pointer(float* x, int64_t count) {
  float* y = right ? x : nullptr;
  if (threadIdx.x < count) y[threadIdx.x] = 1.0f;  // fault: null_pointer
}

struct Case {
  std::string_view name;
  void (*run)(bool right, float* x, int64_t count);
};

template <void (*right_kernel)(float*, int64_t), void (*wrong_kernel)(float*, int64_t), int blocks, int dynamic_bytes>
void run_case(bool right, float* x, int64_t count) {
  const LaunchShape shape{dim3(blocks), dim3(64), dynamic_bytes};
  if (right) {
    launch<right_kernel>(shape, current_stream(0), x, count);
  } else {
    launch<wrong_kernel>(shape, current_stream(0), x, count);
  }
}

#define VISGEN_CASE(kernel, blocks, dynamic_bytes) \
  {#kernel, run_case<kernel<true>, kernel<false>, blocks, dynamic_bytes>}

const Case cases[] = {
    VISGEN_CASE(barrier_not_reached, 1, 0),
    VISGEN_CASE(barriers_mixed_up, 1, 0),
    VISGEN_CASE(unwritten_read, 1, 0),
    VISGEN_CASE(out_of_bounds, 1, 0),
    VISGEN_CASE(out_of_bounds_in_shared_memory, 1, 0),
    VISGEN_CASE(out_of_bounds_in_dynamic_memory, 1, 512),
    VISGEN_CASE(missing_barrier, 1, 0),
    VISGEN_CASE(missing_second_barrier, 1, 0),
    VISGEN_CASE(missing_warp_barrier, 1, 0),
    VISGEN_CASE(misaligned_load, 1, 0),
    VISGEN_CASE(exchange_not_reached, 1, 0),
    VISGEN_CASE(shuffle_from_nobody, 1, 0),
    VISGEN_CASE(copy_not_awaited, 1, 64),
    VISGEN_CASE(race_between_blocks, 2, 0),
    VISGEN_CASE(addition_not_atomic, 1, 0),
    VISGEN_CASE(null_pointer, 1, 0),
};

}  // namespace
}  // namespace visgen

VISGEN_TEST visgen_test_fault(const char* name, bool right, float* x, int64_t count) {
  for (const visgen::Case& one : visgen::cases) {
    if (one.name == name) return run_test([&] { one.run(right, x, count); });
  }
  return "there is no such kernel";
}
