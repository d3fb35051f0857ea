// What the emulation tells the checker of memory accesses. Without VISGEN_HOST_CHECKED there is no checker.
#pragma once

#include <cstddef>
#include <cstdint>

namespace visgen::host {

namespace checker {

#ifdef VISGEN_HOST_CHECKED

constexpr bool kEnabled = true;

void begin_launch(const void* arguments, size_t bytes);
void begin_block();
void pass_block_barrier();
void pass_warp_barrier(int first_thread, uint32_t members);

// An access that an instruction of the emulation makes for a thread.
void read(int thread, const void* address, size_t bytes, const void* place);
void write(int thread, const void* address, size_t bytes, const void* place);

// Memory that kernels may touch. As soon as there is any, all other memory is out of bounds for them.
void register_buffer(const void* address, size_t bytes);
void forget_buffer(const void* address);

#else

constexpr bool kEnabled = false;

inline void begin_launch(const void*, size_t) {}
inline void begin_block() {}
inline void pass_block_barrier() {}
inline void pass_warp_barrier(int, uint32_t) {}
inline void read(int, const void*, size_t, const void*) {}
inline void write(int, const void*, size_t, const void*) {}

#endif

}  // namespace checker
}  // namespace visgen::host
