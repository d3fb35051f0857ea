// One block of a launch: its threads as fibres, its barriers, its warps' exchanges, and its shared memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "emulation.h"
#include "fibre.h"

namespace visgen::host {

constexpr int kLanes = 32;
constexpr int kMaxWarps = kMaxThreadsPerBlock / kLanes;
constexpr size_t kArenaBytes = 256 * 1024;  // shared memory, and the gaps between variables
constexpr size_t kGapBytes = 128;

// What all blocks of a launch have in common.
struct Grid {
  std::string_view kernel;
  dim3 shape;
  dim3 block;
  size_t dynamic_shared_bytes;
  void (*run_thread)(const void* arguments);
  const void* arguments;
  int64_t schedule;  // 0: ascending, -1: descending, else the seed of a shuffle
};

// The order in which the threads that could run do run.
class Schedule {
 public:
  void reset(int64_t seed, uint64_t block);
  int choose(uint32_t ready);  // one of its bits
  bool leaves_warp();

 private:
  uint64_t random();
  int64_t seed_ = 0;
  uint64_t state_ = 0;
};

struct SharedVariable {
  const void* site;
  char* address;
  size_t bytes;
  const char* name;
};

struct AsyncCopy {
  void* to;
  const void* from;
  int valid_bytes;
  int group;
  const void* place;  // of the call
};

struct Thread {
  enum class Wait : uint8_t { kNothing, kBarrier, kExchange };
  dim3 index;
  bool started = false, finished = false;
  Wait wait = Wait::kNothing;
  const void* place = nullptr;  // of the call that it waits in
  Fibre fibre;
  int copy_groups = 0;  // committed so far
  std::vector<AsyncCopy> copies;
};

// What a lane brings to an exchange. When all members have come, the last one calls complete() for all of them.
struct Visit {
  void (*complete)(uint32_t members, const Visit* lanes) = nullptr;
  uint32_t members = 0;
  void* payload = nullptr;
};

class Block {
 public:
  Block();

  // Runs all threads of a block. Returns the empty string, or a sentence about the fault that ended it.
  std::string run(const Grid& grid, uint64_t index);

  // Called by the thread that runs; `place` is the return address of its call.
  void sync_block(const void* place);
  void exchange(const Visit& visit, const void* place);
  void* shared_variable(const void* site, size_t bytes, size_t alignment, const char* name, const void* place);
  void* dynamic_shared() { return shared_.front().address; }

  // Ends the launch because of a fault of the thread that runs, or of another thread.
  [[noreturn]] void fail(const std::string& what, const void* place) { fail(what, place, running_); }
  [[noreturn]] void fail(const std::string& what, const void* place, int thread);

  int running() const { return running_; }
  int first_of_warp() const { return running_ / kLanes * kLanes; }
  Thread& thread(int index) { return threads_[index]; }
  bool is_stack(const void* address) const { return stacks_.contains(address); }
  const char* arena() const { return arena_->bytes; }
  const std::vector<SharedVariable>& shared_variables() const { return shared_; }
  static std::string name(const dim3& index);

 private:
  struct Warp {
    uint32_t exists = 0, ready = 0, arrived = 0;
    Visit visits[kLanes];
  };
  struct alignas(kGapBytes) Arena {
    char bytes[kArenaBytes];
  };

  void reset(const Grid& grid, uint64_t index);
  char* reserve(const void* site, size_t bytes, const char* name);
  void run_threads();
  static void run_fibre();
  void set_ready(int thread);
  int next_thread();
  void select(int thread);
  void give_way();
  void check_same_place(int first, int count, const char* what);
  bool waits_for(int waiting, int other) const;
  [[noreturn]] void report_stuck();
  [[noreturn]] void end();

  const Grid* grid_ = nullptr;
  dim3 index_;
  int count_ = 0, finished_ = 0, at_barrier_ = 0;
  int running_ = 0, warp_ = 0;
  uint32_t ready_warps_ = 0;
  Schedule schedule_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  StackPool stacks_;
  Fibre outside_, stack_in_use_;
  std::unique_ptr<Arena> arena_;
  size_t arena_used_ = 0, shared_bytes_ = 0;
  std::vector<SharedVariable> shared_;  // the first is the dynamic shared memory
  std::string fault_;
};

// The block that runs on this thread of the operating system; null outside launches.
Block* running_block();

}  // namespace visgen::host
