// CUDA's vocabulary for an ordinary C++ compiler: what the four headers in ../cuda stand on when there is no nvcc.
//
// A launch runs the blocks of its grid in parallel on the threads of the operating system. Within a block every
// CUDA thread is a fibre: it runs until it waits for others (at a barrier, in an exchange between lanes), and then
// the next one runs. In which order lanes and warps run is the schedule's business:
// `visgen_host_set_schedule(seed)`, or VISGEN_HOST_SCHEDULE in the environment; 0 runs them in ascending order, −1
// in descending, any other seed shuffles.
//
// A fault of a kernel ends the launch with a std::runtime_error that names kernel, block, thread, file and line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define threadIdx (::visgen::host::builtins.thread_index)
#define blockIdx (::visgen::host::builtins.block_index)
#define blockDim (::visgen::host::builtins.block_shape)
#define gridDim (::visgen::host::builtins.grid_shape)

extern "C" __attribute__((visibility("default"))) void visgen_host_set_schedule(int64_t seed);

namespace visgen::host {

struct Builtins {
  dim3 thread_index, block_index, block_shape, grid_shape;
};

// Those of the fibre that runs. Fibres never move between threads of the operating system.
extern thread_local Builtins builtins __attribute__((tls_model("initial-exec")));

struct Stream {};

constexpr int kMultiprocessorCount = 3;  // small and odd, so that loops over the grid take several unequal turns
constexpr size_t kSharedMemoryLimit = 99 * 1024;  // the least of all GPUs that the kernels are built for (8.6, 8.9)
constexpr size_t kStaticSharedLimit = 48 * 1024;  // nvcc's
constexpr int kMaxThreadsPerBlock = 1024;

void launch(std::string_view kernel, dim3 grid, dim3 block, size_t dynamic_shared_bytes,
            void (*run_thread)(const void* arguments), const void* arguments, size_t argument_bytes);

// The variable declared at `site`, the same for all threads of a block.
void* shared_variable(const void* site, size_t bytes, size_t alignment, const char* name);
void* dynamic_shared();

void sync_block();
void sync_warp(uint32_t members);
void shuffle(const void* value, void* result, size_t bytes, int source_lane, uint32_t members);
uint32_t ballot(bool predicate, uint32_t members);

void multiply_bf16(float* d, const uint32_t* a, const uint32_t* b);
void multiply_s8(int32_t* d, const uint32_t* a, const uint32_t* b);
void multiply_tf32(float* d, const uint32_t* a, const uint32_t* b);
uint32_t to_tf32(float value);
void load_matrices(uint32_t* fragment, const void* row, bool transposed);
void copy_async(void* to, const void* from, int valid_bytes);
void commit_copies();
void wait_copies(int groups);

[[noreturn]] void report_misaligned(const void* address, size_t alignment);

#ifdef VISGEN_HOST_CHECKED
void begin_vector(const void* address, size_t alignment);  // whose elements are accessed next
#else
inline void begin_vector(const void*, size_t) {}
#endif

__forceinline__ void check_alignment(const void* address, size_t alignment) {
  begin_vector(address, alignment);
  if (reinterpret_cast<uintptr_t>(address) % alignment != 0) report_misaligned(address, alignment);
}

template <class Word>
__forceinline__ Word atomic_add(Word* address, Word value) {
  check_alignment(address, sizeof(Word));
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

}  // namespace visgen::host
