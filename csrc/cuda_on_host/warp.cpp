// What threads do together: barriers, exchanges between the lanes of a warp, and asynchronous copies.
//
// Every entry passes on its return address: the place in the kernel that a report names.
#include <cstring>

#include "block.h"
#include "checker.h"
#include "counter.h"
#include "place.h"

namespace visgen::host {
namespace {

struct Shuffle {
  const void* value;
  void* result;
  size_t bytes;
  int source;
};

void complete_shuffle(uint32_t members, const Visit* lanes) {
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((members >> lane & 1) == 0) continue;
    const Shuffle& own = *static_cast<const Shuffle*>(lanes[lane].payload);
    if ((members >> own.source & 1) == 0) {
      Block& block = *running_block();
      const int thread = block.first_of_warp() + lane;
      block.fail("a shuffle reads lane " + std::to_string(own.source) + ", which takes no part in it",
                 block.thread(thread).place, thread);
    }
    memcpy(own.result, static_cast<const Shuffle*>(lanes[own.source].payload)->value, own.bytes);
  }
}

struct Vote {
  bool predicate;
  uint32_t result;
};

void complete_ballot(uint32_t members, const Visit* lanes) {
  uint32_t result = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((members >> lane & 1) != 0 && static_cast<const Vote*>(lanes[lane].payload)->predicate) result |= 1u << lane;
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((members >> lane & 1) != 0) static_cast<Vote*>(lanes[lane].payload)->result = result;
  }
}

void complete_barrier(uint32_t members, const Visit*) {
  checker::pass_warp_barrier(running_block()->first_of_warp(), members);
}

}  // namespace

void sync_block() {
  counter::add(counter::kBlockBarrier);
  running_block()->sync_block(__builtin_return_address(0));
}

void sync_warp(uint32_t members) {
  counter::add(counter::kWarpBarrier);
  running_block()->exchange({complete_barrier, members, nullptr}, __builtin_return_address(0));
}

void shuffle(const void* value, void* result, size_t bytes, int source_lane, uint32_t members) {
  counter::add(counter::kShuffle, (bytes + 3) / 4);
  Shuffle own{value, result, bytes, source_lane & (kLanes - 1)};
  running_block()->exchange({complete_shuffle, members, &own}, __builtin_return_address(0));
}

uint32_t ballot(bool predicate, uint32_t members) {
  counter::add(counter::kVote);
  Vote own{predicate, 0};
  running_block()->exchange({complete_ballot, members, &own}, __builtin_return_address(0));
  return own.result;
}

void* shared_variable(const void* site, size_t bytes, size_t alignment, const char* name) {
  return running_block()->shared_variable(site, bytes, alignment, name, __builtin_return_address(0));
}

void* dynamic_shared() { return running_block()->dynamic_shared(); }

void report_misaligned(const void* address, size_t alignment) {
  const size_t excess = reinterpret_cast<uintptr_t>(address) % alignment;
  running_block()->fail("a misaligned access: its address is " + std::to_string(excess) +
                            " bytes above a multiple of " + std::to_string(alignment),
                        __builtin_return_address(0));
}

// The data arrive as late as they may: at the wait that covers them. A kernel that forgets to wait sees none.
void copy_async(void* to, const void* from, int valid_bytes) {
  const void* place = __builtin_return_address(0);
  Block& block = *running_block();
  for (const void* address : {static_cast<const void*>(to), from}) {
    if (reinterpret_cast<uintptr_t>(address) % 16 != 0) {
      block.fail("copy_async needs addresses that are multiples of 16", place);
    }
  }
  counter::add(counter::kAsyncCopy);
  if (valid_bytes < 0 || valid_bytes > 16) block.fail("copy_async copies 0 to 16 bytes", place);
  Thread& thread = block.thread(block.running());
  checker::read(block.running(), from, valid_bytes, place);
  thread.copies.push_back({to, from, valid_bytes, thread.copy_groups, place});
}

void commit_copies() {
  Block& block = *running_block();
  ++block.thread(block.running()).copy_groups;
}

void wait_copies(int groups) {
  Block& block = *running_block();
  Thread& thread = block.thread(block.running());
  auto copy = thread.copies.begin();
  for (; copy != thread.copies.end() && copy->group < thread.copy_groups - groups; ++copy) {
    checker::write(block.running(), copy->to, 16, copy->place);
    memset(copy->to, 0, 16);
    memcpy(copy->to, copy->from, copy->valid_bytes);
  }
  thread.copies.erase(thread.copies.begin(), copy);
}

}  // namespace visgen::host
