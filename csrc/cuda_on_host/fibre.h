// Fibres: several stacks that take turns on one thread of the operating system. A switch costs a few nanoseconds.
#pragma once

#include <cstddef>
#include <vector>

namespace visgen::host {

// Where a suspended fibre goes on, and its stack (which the address sanitizer must be told).
struct Fibre {
  void* context = nullptr;
  void* stack = nullptr;
  size_t stack_bytes = 0;
};

// The thread that calls, as a fibre to come back to; its context is filled in by switch_fibre().
Fibre running_thread();

// The first call of every new fibre.
void begin_fibre();

// Suspends the running fibre into `from` and goes on with `to`. Returns when somebody switches back to `from`.
void switch_fibre(Fibre& from, const Fibre& to);

// The same from a fibre whose stack is no longer needed.
[[noreturn]] void leave_fibre(const Fibre& to);

// Stacks for fibres, each with an unmapped page below it, in one piece of address space.
class StackPool {
 public:
  explicit StackPool(int count);
  ~StackPool();
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;

  // A new fibre that will run entry(), which calls begin_fibre() first, and ends with leave_fibre().
  Fibre start(void (*entry)());
  void release(const Fibre& fibre) { free_.push_back(fibre.stack); }
  void release_all();

  bool contains(const void* address) const {
    return static_cast<const char*>(address) >= begin_ && static_cast<const char*>(address) < end_;
  }

 private:
  char* begin_;
  char* end_;
  std::vector<void*> free_;
};

}  // namespace visgen::host
