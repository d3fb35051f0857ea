#include "fibre.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <stdexcept>

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>

#include <new>
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// visgen_host_switch(void** from, void* to) saves what a function must preserve on the stack that runs, leaves its
// position in *from, and goes on with the stack at `to`.
extern "C" void visgen_host_switch(void** from, void* to);

#if defined(__x86_64__)

asm(R"(
.text
.hidden visgen_host_switch
.globl visgen_host_switch
.type visgen_host_switch, @function
visgen_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size visgen_host_switch, .-visgen_host_switch
)");

#elif defined(__aarch64__)

asm(R"(
.text
.hidden visgen_host_switch
.globl visgen_host_switch
.type visgen_host_switch, %function
visgen_host_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size visgen_host_switch, .-visgen_host_switch
)");

#else

extern "C" void visgen_host_switch(void** from, void* to) {
  ucontext_t self;
  *from = &self;
  swapcontext(&self, static_cast<ucontext_t*>(to));
}

#endif

namespace visgen::host {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStackBytes = 256 * 1024;  // its frames are larger
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

size_t page_bytes() {
  static const size_t bytes = sysconf(_SC_PAGESIZE);
  return bytes;
}

// What visgen_host_switch would have left on the stack of a fibre that is about to call entry().
void* first_context(void* stack, void (*entry)()) {
  // Stacks begin at different offsets in their pages, or all of them would compete for the same few lines of the cache.
  const size_t stagger = reinterpret_cast<uintptr_t>(stack) / 4096 % 32 * 128;
  char* top = static_cast<char*>(stack) + kStackBytes - stagger;
#if defined(__x86_64__)
  void** words = reinterpret_cast<void**>(top) - 8;  // six registers, entry(), and the end of backtraces
  for (int i = 0; i < 8; ++i) words[i] = nullptr;
  words[6] = reinterpret_cast<void*>(entry);
  return words;
#elif defined(__aarch64__)
  void** words = reinterpret_cast<void**>(top) - 20;
  for (int i = 0; i < 20; ++i) words[i] = nullptr;
  words[11] = reinterpret_cast<void*>(entry);  // x30
  return words;
#else
  ucontext_t* context = new (top - (sizeof(ucontext_t) + 63) / 64 * 64) ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = reinterpret_cast<char*>(context) - static_cast<char*>(stack);
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
#endif
}

}  // namespace

Fibre running_thread() {
  Fibre fibre;
#ifdef __SANITIZE_ADDRESS__
  pthread_attr_t attributes;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &fibre.stack, &fibre.stack_bytes);
  pthread_attr_destroy(&attributes);
#endif
  return fibre;
}

void switch_fibre(Fibre& from, const Fibre& to) {
#ifdef __SANITIZE_ADDRESS__
  void* fake_stack;
  __sanitizer_start_switch_fiber(&fake_stack, to.stack, to.stack_bytes);
#endif
  visgen_host_switch(&from.context, to.context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void begin_fibre() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

void leave_fibre(const Fibre& to) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(nullptr, to.stack, to.stack_bytes);
#endif
  void* nowhere;
  visgen_host_switch(&nowhere, to.context);
  __builtin_unreachable();
}

StackPool::StackPool(int count) {
  const size_t slot_bytes = kStackBytes + page_bytes();
  const size_t bytes = slot_bytes * count;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    throw std::runtime_error("CUDA on the host: no memory for the stacks of a block's threads.");
  begin_ = static_cast<char*>(memory);
  end_ = begin_ + bytes;
  for (char* slot = begin_; slot < end_; slot += slot_bytes) mprotect(slot, page_bytes(), PROT_NONE);
  release_all();
}

StackPool::~StackPool() { munmap(begin_, end_ - begin_); }

Fibre StackPool::start(void (*entry)()) {
  Fibre fibre;
  fibre.stack = free_.back();
  fibre.stack_bytes = kStackBytes;
  free_.pop_back();
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(fibre.stack, kStackBytes);  // what an abandoned fibre left
#endif
  fibre.context = first_context(fibre.stack, entry);
  return fibre;
}

void StackPool::release_all() {
  free_.clear();
  const size_t slot_bytes = kStackBytes + page_bytes();
  for (char* slot = end_ - slot_bytes; slot >= begin_; slot -= slot_bytes) free_.push_back(slot + page_bytes());
}

}  // namespace visgen::host
