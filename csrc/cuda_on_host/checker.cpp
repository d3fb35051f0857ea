// Finds the faults of kernels that results alone may hide: accesses outside every buffer, reads of shared memory that
// nobody wrote, misaligned accesses, and accesses of two threads that no barrier orders.
//
// The kernels are compiled with -fsanitize=thread, which calls a __tsan_ function before every access to memory. The
// sanitizer's own library is not linked: those functions are defined here. Each byte of shared memory and of the
// registered buffers has a shadow that says who wrote it and who read it last, and when: in which interval between two
// barriers of which block (the epoch), and after how many barriers of its warp (the clock).
#include "checker.h"

#include <link.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "block.h"
#include "counter.h"
#include "place.h"

namespace visgen::host::checker {
namespace {

constexpr uintptr_t kFirstPage = 4096;  // which no process has

enum class Kind : uint8_t { kRead, kWrite, kAtomic };

struct Access {
  uint32_t epoch = 0;  // 0: never
  uint16_t thread : 15 = 0;
  uint16_t is_atomic : 1 = 0;
  uint16_t clock = 0;
  int32_t place = 0;  // relative to this library, to fit into 32 bits
};

struct Shadow {
  Access write;
  Access reads[2];  // the last ones, of different threads
};

struct Buffer {
  size_t bytes = 0;
  std::unique_ptr<Shadow[]> shadow;  // from the first access on
};

// What a lane knows of the other lanes of its warp: their clocks when a barrier last joined them. Its own entry is its
// clock.
using Clocks = std::array<uint16_t, kLanes>;

struct State {
  std::mutex mutex;  // of the buffers: torch allocates on any thread
  std::map<const char*, Buffer> buffers;
  std::vector<Shadow> shared = std::vector<Shadow>(kArenaBytes);
  uint32_t epoch = 1, first_of_block = 1, first_of_launch = 1;
  bool block_has_used_atomics = false;  // and so may have learnt that other blocks are done
  std::vector<Clocks> clocks = std::vector<Clocks>(kMaxThreadsPerBlock);
  const char* arguments = nullptr;
  size_t argument_bytes = 0;
  const char* image_begin = nullptr;
  const char* image_end = nullptr;
};

const char* anchor() { return reinterpret_cast<const char*>(&anchor); }

// Finds this library's own memory, in which constants lie.
int find_image(dl_phdr_info* library, size_t, void* state) {
  const char* base = reinterpret_cast<const char*>(library->dlpi_addr);
  const char *begin = nullptr, *end = nullptr;
  for (int i = 0; i < library->dlpi_phnum; ++i) {
    const auto& segment = library->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    if (begin == nullptr) begin = base + segment.p_vaddr;
    end = base + segment.p_vaddr + segment.p_memsz;
  }
  if (anchor() < begin || anchor() >= end) return 0;
  static_cast<State*>(state)->image_begin = begin;
  static_cast<State*>(state)->image_end = end;
  return 1;
}

State& get_state() {
  static State& state = *[] {  // outlives every thread
    State* made = new State;
    dl_iterate_phdr(find_image, made);
    return made;
  }();
  return state;
}

void begin_epoch(State& state) {
  ++state.epoch;
  for (int thread = 0; thread < kMaxThreadsPerBlock; ++thread) {
    state.clocks[thread].fill(0);
    state.clocks[thread][thread % kLanes] = 1;
  }
}

bool is_within(const char* address, const void* begin, size_t bytes) {
  return address >= begin && address < static_cast<const char*>(begin) + bytes;
}

// The variable or the buffer that an address belongs to, or is nearest to.
struct Target {
  const char* variable = nullptr;  // its name; null: a buffer
  size_t bytes = 0;
  ptrdiff_t offset = 0;
  Shadow* shadow = nullptr;

  bool contains(size_t access_bytes) const {
    return offset >= 0 && static_cast<size_t>(offset) + access_bytes <= bytes;
  }
  std::string describe() const {
    return "byte " + std::to_string(offset) + " of " +
           (variable != nullptr ? "the shared variable `" + std::string(variable) + "`" : "a buffer") + " of " +
           std::to_string(bytes) + " bytes";
  }
};

Target find_shared(State& state, const Block& block, const char* address) {
  const SharedVariable* found = &block.shared_variables().front();
  for (const SharedVariable& variable : block.shared_variables()) {
    if (variable.address <= address) found = &variable;
  }
  return {found->name, found->bytes, address - found->address, &state.shared[address - block.arena()]};
}

Target find_buffer(State& state, const char* address) {
  const std::lock_guard lock(state.mutex);
  const auto next = state.buffers.upper_bound(address);
  const bool has_previous = next != state.buffers.begin(), has_next = next != state.buffers.end();
  if (!has_previous && !has_next) return {};
  auto found = has_previous ? std::prev(next) : next;
  const ptrdiff_t beyond = has_previous ? address - (found->first + found->second.bytes) : 0;
  if (has_previous && has_next && beyond > next->first - address) found = next;
  auto& [begin, buffer] = *found;
  const ptrdiff_t offset = address - begin;
  if (!buffer.shadow) buffer.shadow = std::make_unique<Shadow[]>(buffer.bytes);
  return {nullptr, buffer.bytes, offset, buffer.shadow.get() + offset};
}

const char* verb(Kind kind) {
  return kind == Kind::kRead ? "reads" : kind == Kind::kWrite ? "writes" : "adds atomically to";
}

class Check {
 public:
  Check(State& state, Block& block, Kind kind, int thread, const Target& target, size_t bytes, const void* place)
      : state_(state), block_(block), kind_(kind), thread_(thread), target_(target), bytes_(bytes), place_(place) {}

  void run() {
    if (!target_.contains(bytes_)) fail(std::string(verb(kind_)) + " out of bounds: " + target_.describe());
    if (target_.variable != nullptr && kind_ != Kind::kWrite) check_written();
    for (size_t i = 0; i < bytes_; ++i) check_order(target_.shadow[i]);
  }

 private:
  [[noreturn]] void fail(const std::string& what) { block_.fail(what, place_, thread_); }

  // Of eight bytes that are read together some may be the padding of a structure, which nobody writes.
  void check_written() {
    for (size_t first = 0; first < bytes_; first += 8) {
      bool written = false;
      for (size_t i = first; i < bytes_ && i < first + 8; ++i) {
        written |= target_.shadow[i].write.epoch >= state_.first_of_block;
      }
      if (!written) fail("reads shared memory that no thread has written: " + target_.describe());
    }
  }

  bool is_ordered(const Access& before) const {
    if (before.epoch < state_.first_of_launch) return true;
    if (before.epoch < state_.first_of_block) return target_.variable != nullptr || state_.block_has_used_atomics;
    if (before.epoch < state_.epoch || before.thread == thread_) return true;
    if (before.thread / kLanes != thread_ / kLanes) return false;
    return state_.clocks[thread_][before.thread % kLanes] >= before.clock;
  }

  void check_conflict(const Access& before, Kind kind) {
    if (is_ordered(before) || (before.is_atomic && kind_ == Kind::kAtomic)) return;
    const bool other_block = before.epoch < state_.first_of_block;
    fail(std::string("a race: ") + verb(kind_) + " " + target_.describe() + ", which " +
         (other_block ? "another block" : "thread " + Block::name(block_.thread(before.thread).index)) + " " +
         verb(kind) + " at " + describe_place(anchor() + before.place) +
         (other_block ? "" : " with no barrier in between"));
  }

  void check_order(Shadow& shadow) {
    check_conflict(shadow.write, shadow.write.is_atomic ? Kind::kAtomic : Kind::kWrite);
    const Access now{state_.epoch, static_cast<uint16_t>(thread_), kind_ == Kind::kAtomic,
                     state_.clocks[thread_][thread_ % kLanes],
                     static_cast<int32_t>(static_cast<const char*>(place_) - anchor())};
    if (kind_ == Kind::kRead) {
      const bool same = shadow.reads[0].thread == thread_ || shadow.reads[0].epoch < state_.epoch;
      if (!same) shadow.reads[1] = shadow.reads[0];
      shadow.reads[0] = now;
    } else {
      for (const Access& read : shadow.reads) check_conflict(read, Kind::kRead);
      shadow.write = now;
    }
  }

  State& state_;
  Block& block_;
  const Kind kind_;
  const int thread_;
  const Target& target_;
  const size_t bytes_;
  const void* place_;
};

bool is_host_memory(const State& state, const char* address) {
  return is_within(address, &builtins, sizeof(builtins)) || is_within(address, state.arguments, state.argument_bytes) ||
         is_within(address, state.image_begin, state.image_end - state.image_begin);
}

void check_access(Kind kind, int thread, const void* pointer, size_t bytes, const void* place) {
  Block& block = *running_block();
  State& state = get_state();
  const char* address = static_cast<const char*>(pointer);
  if (is_within(address, block.arena(), kArenaBytes)) {
    const Target target = find_shared(state, block, address);
    Check(state, block, kind, thread, target, bytes, place).run();
    return;
  }
  if (is_host_memory(state, address) || state.buffers.empty()) return;
  if (kind == Kind::kAtomic) state.block_has_used_atomics = true;
  const Target target = find_buffer(state, address);
  Check(state, block, kind, thread, target, bytes, place).run();
}

void count_access(Kind kind, const Block& block, const void* pointer, size_t bytes) {
  constexpr counter::Event kShared[] = {counter::kSharedLoad, counter::kSharedStore, counter::kSharedAtomic};
  constexpr counter::Event kGlobal[] = {counter::kGlobalLoad, counter::kGlobalStore, counter::kGlobalAtomic};
  const char* address = static_cast<const char*>(pointer);
  if (is_within(address, block.arena(), kArenaBytes)) {
    counter::add_access(kShared[static_cast<int>(kind)], block.running(), address, bytes);
  } else if (!is_host_memory(get_state(), address)) {
    counter::add_access(kGlobal[static_cast<int>(kind)], block.running(), address, bytes);
  }
}

// An access of the kernel's own code.
inline void check_instruction(Kind kind, const void* address, size_t bytes, size_t alignment, const void* place) {
  Block* block = running_block();
  if (block == nullptr || block->is_stack(address)) return;
  if (reinterpret_cast<uintptr_t>(address) < kFirstPage) {
    block->fail(std::string(verb(kind)) + " through a null pointer", place);
  }
  if (reinterpret_cast<uintptr_t>(address) % alignment != 0) {
    block->fail("a misaligned access: " + std::to_string(bytes) + " bytes at an address that is no multiple of it",
                place);
  }
  count_access(kind, *block, address, bytes);
  check_access(kind, block->running(), address, bytes, place);
}

}  // namespace

void begin_launch(const void* arguments, size_t bytes) {
  State& state = get_state();
  state.arguments = static_cast<const char*>(arguments);
  state.argument_bytes = bytes;
  state.first_of_launch = state.epoch + 1;
}

void begin_block() {
  State& state = get_state();
  begin_epoch(state);
  state.first_of_block = state.epoch;
  state.block_has_used_atomics = false;
}

void pass_block_barrier() { begin_epoch(get_state()); }

void pass_warp_barrier(int first_thread, uint32_t members) {
  State& state = get_state();
  Clocks joined{};
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((members >> lane & 1) == 0) continue;
    const Clocks& clocks = state.clocks[first_thread + lane];
    for (int other = 0; other < kLanes; ++other) joined[other] = std::max(joined[other], clocks[other]);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((members >> lane & 1) == 0) continue;
    state.clocks[first_thread + lane] = joined;
    ++state.clocks[first_thread + lane][lane];
  }
}

void read(int thread, const void* address, size_t bytes, const void* place) {
  check_access(Kind::kRead, thread, address, bytes, place);
}

void write(int thread, const void* address, size_t bytes, const void* place) {
  check_access(Kind::kWrite, thread, address, bytes, place);
}

void register_buffer(const void* address, size_t bytes) {
  State& state = get_state();
  const std::lock_guard lock(state.mutex);
  state.buffers[static_cast<const char*>(address)] = Buffer{bytes, nullptr};
}

void forget_buffer(const void* address) {
  State& state = get_state();
  const std::lock_guard lock(state.mutex);
  state.buffers.erase(static_cast<const char*>(address));
}

}  // namespace visgen::host::checker

using visgen::host::checker::check_instruction;
using visgen::host::checker::Kind;

extern "C" {

__attribute__((visibility("default"))) void visgen_host_register_buffer(const void* address, size_t bytes) {
  visgen::host::checker::register_buffer(address, bytes);
}

__attribute__((visibility("default"))) void visgen_host_forget_buffer(const void* address) {
  visgen::host::checker::forget_buffer(address);
}

// The functions that -fsanitize=thread calls.
#define VISGEN_ACCESS(size)                                                            \
  void __tsan_read##size(void* address) {                                              \
    check_instruction(Kind::kRead, address, size, size, __builtin_return_address(0));  \
  }                                                                                    \
  void __tsan_write##size(void* address) {                                             \
    check_instruction(Kind::kWrite, address, size, size, __builtin_return_address(0)); \
  }                                                                                    \
  void __tsan_unaligned_read##size(void* address) {                                    \
    check_instruction(Kind::kRead, address, size, 1, __builtin_return_address(0));     \
  }                                                                                    \
  void __tsan_unaligned_write##size(void* address) {                                   \
    check_instruction(Kind::kWrite, address, size, 1, __builtin_return_address(0));    \
  }
VISGEN_ACCESS(1)
VISGEN_ACCESS(2)
VISGEN_ACCESS(4)
VISGEN_ACCESS(8)
VISGEN_ACCESS(16)

#define VISGEN_ATOMIC(bits)                                                                            \
  uint##bits##_t __tsan_atomic##bits##_fetch_add(uint##bits##_t* address, uint##bits##_t value, int) { \
    check_instruction(Kind::kAtomic, address, bits / 8, bits / 8, __builtin_return_address(0));        \
    return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);                                       \
  }
VISGEN_ATOMIC(32)
VISGEN_ATOMIC(64)

void __tsan_read_range(void* address, size_t bytes) {
  check_instruction(Kind::kRead, address, bytes, 1, __builtin_return_address(0));
}
void __tsan_write_range(void* address, size_t bytes) {
  check_instruction(Kind::kWrite, address, bytes, 1, __builtin_return_address(0));
}
// clang calls these in the place of the C library's.
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  check_instruction(Kind::kRead, from, bytes, 1, __builtin_return_address(0));
  check_instruction(Kind::kWrite, to, bytes, 1, __builtin_return_address(0));
  return memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  check_instruction(Kind::kRead, from, bytes, 1, __builtin_return_address(0));
  check_instruction(Kind::kWrite, to, bytes, 1, __builtin_return_address(0));
  return memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int byte, size_t bytes) {
  check_instruction(Kind::kWrite, to, bytes, 1, __builtin_return_address(0));
  return memset(to, byte, bytes);
}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
void __tsan_atomic_thread_fence(int) {}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

}  // extern "C"
