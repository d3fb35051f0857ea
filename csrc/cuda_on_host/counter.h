// What a launch executes, counted as a GPU counts instructions of threads: for the comparison with machine code.
//
// Only the checked build counts, since only there every access to memory is seen. A vector that `load_vec` or
// `store_vec` moves counts as the accesses of at most 16 bytes that it takes; a value that lanes exchange, as its words
// of 32 bits. What a thread reads from global memory again, a compiler may keep: so there are two counts of loads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "emulation.h"

namespace visgen::host::counter {

enum Event {
  kGlobalLoad,
  kGlobalStore,
  kGlobalAtomic,
  kSharedLoad,
  kSharedStore,
  kSharedAtomic,
  kShuffle,
  kVote,
  kBlockBarrier,
  kWarpBarrier,
  kTensorCore,
  kMatrixLoad,
  kAsyncCopy,
  kDifferentGlobalLoad,  // of an address that the thread has not read before
  kEvents
};

#ifdef VISGEN_HOST_CHECKED

void add(Event event, uint64_t count = 1);

// An access of the thread that runs; `event` is that of an access of its kind.
void add_access(Event event, int thread, const void* address, size_t bytes);

void begin_block();

#else

inline void add(Event, uint64_t = 1) {}
inline void begin_block() {}

#endif

// Whether an observer wants the launch to be left out. It is asked once for each launch.
bool observe(std::string_view kernel, dim3 grid, dim3 block, size_t dynamic_shared_bytes, const void* arguments,
             size_t argument_bytes);

}  // namespace visgen::host::counter
