#include "counter.h"

#include <algorithm>
#include <string>
#include <unordered_set>

namespace visgen::host {
namespace counter {
namespace {

using Observer = int (*)(const char* kernel, const unsigned* grid_and_block, size_t dynamic_shared_bytes,
                         const void* arguments, size_t argument_bytes);
Observer observer = nullptr;

uint64_t counts[kEvents];

}  // namespace

bool observe(std::string_view kernel, dim3 grid, dim3 block, size_t dynamic_shared_bytes, const void* arguments,
             size_t argument_bytes) {
  if (observer == nullptr) return false;
  const unsigned shape[] = {grid.x, grid.y, grid.z, block.x, block.y, block.z};
  return observer(std::string(kernel).c_str(), shape, dynamic_shared_bytes, arguments, argument_bytes) != 0;
}

#ifdef VISGEN_HOST_CHECKED

namespace {

// Where the next element of the vector under way would lie, and the most that one instruction moves of it.
const char* next_of_vector = nullptr;
size_t vector_word = 1;

std::unordered_set<uint64_t>& addresses_read() {  // by the block that runs, with the number of the thread
  static std::unordered_set<uint64_t>& set = *new std::unordered_set<uint64_t>;
  return set;
}

}  // namespace

void add(Event event, uint64_t count) { counts[event] += count; }

void begin_block() { addresses_read().clear(); }

void add_access(Event event, int thread, const void* address, size_t bytes) {
  const char* first = static_cast<const char*>(address);
  const bool continues = first == next_of_vector;
  next_of_vector = continues ? first + bytes : nullptr;
  if (continues && reinterpret_cast<uintptr_t>(first) % vector_word != 0) return;
  add(event);
  if (event != kGlobalLoad) return;
  const uint64_t key = reinterpret_cast<uintptr_t>(first) * kMaxThreadsPerBlock + static_cast<uint64_t>(thread);
  if (addresses_read().insert(key).second) add(kDifferentGlobalLoad);
}

#endif

}  // namespace counter

#ifdef VISGEN_HOST_CHECKED

void begin_vector(const void* address, size_t alignment) {
  counter::next_of_vector = static_cast<const char*>(address);
  counter::vector_word = alignment;
}

#endif

}  // namespace visgen::host

extern "C" {

// Asked before each launch; a launch for which it returns 1 does not run. Null: nobody is asked.
__attribute__((visibility("default"))) void visgen_host_set_observer(visgen::host::counter::Observer observer) {
  visgen::host::counter::observer = observer;
}

// What was counted since the last call, in the order of Event.
__attribute__((visibility("default"))) void visgen_host_take_counts(uint64_t* counts) {
  std::copy_n(visgen::host::counter::counts, static_cast<int>(visgen::host::counter::kEvents), counts);
  std::fill_n(visgen::host::counter::counts, static_cast<int>(visgen::host::counter::kEvents), uint64_t{0});
}
}
