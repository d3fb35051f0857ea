#include "block.h"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "checker.h"
#include "counter.h"
#include "place.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace visgen::host {

thread_local Builtins builtins;

namespace {

thread_local Block* block_of_this_thread = nullptr;

size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

Block* running_block() { return block_of_this_thread; }

void Schedule::reset(int64_t seed, uint64_t block) {
  seed_ = seed;
  state_ = (static_cast<uint64_t>(seed) + 1) * 0x9e3779b97f4a7c15u ^ (block + 1) * 0xd1342543de82ef95u;
}

uint64_t Schedule::random() {  // xorshift64*
  state_ ^= state_ >> 12;
  state_ ^= state_ << 25;
  state_ ^= state_ >> 27;
  return state_ * 0x2545f4914f6cdd1du >> 32;
}

int Schedule::choose(uint32_t ready) {
  if (seed_ == 0) return std::countr_zero(ready);
  if (seed_ < 0) return 31 - std::countl_zero(ready);
  for (int skip = static_cast<int>(random() % std::popcount(ready)); skip > 0; --skip) ready &= ready - 1;
  return std::countr_zero(ready);
}

bool Schedule::leaves_warp() { return seed_ > 0 && random() % 8 == 0; }

Block::Block() : stacks_(kMaxThreadsPerBlock), arena_(std::make_unique_for_overwrite<Arena>()) {}

std::string Block::name(const dim3& index) {
  std::ostringstream text;
  text << '(' << index.x << ", " << index.y << ", " << index.z << ')';
  return text.str();
}

std::string Block::run(const Grid& grid, uint64_t index) {
  reset(grid, index);
  block_of_this_thread = this;
  checker::begin_block();
  counter::begin_block();
  outside_ = running_thread();
  warp_ = schedule_.choose(ready_warps_);
  select(next_thread());
  stack_in_use_ = stacks_.start(run_fibre);
  switch_fibre(outside_, stack_in_use_);
  block_of_this_thread = nullptr;
  return std::move(fault_);
}

void Block::reset(const Grid& grid, uint64_t index) {
  grid_ = &grid;
  index_ = dim3(index % grid.shape.x, index / grid.shape.x % grid.shape.y, index / grid.shape.x / grid.shape.y);
  builtins = {dim3(), index_, grid.block, grid.shape};
  schedule_.reset(grid.schedule, index);
  fault_.clear();
  count_ = static_cast<int>(grid.block.x * grid.block.y * grid.block.z);
  finished_ = at_barrier_ = 0;
  threads_.resize(count_);
  warps_.assign((count_ + kLanes - 1) / kLanes, Warp());
  ready_warps_ = 0;
  for (int i = 0; i < count_; ++i) {
    Thread& thread = threads_[i];
    thread.index = dim3(i % grid.block.x, i / grid.block.x % grid.block.y, i / grid.block.x / grid.block.y);
    thread.started = thread.finished = false;
    thread.wait = Thread::Wait::kNothing;
    thread.copy_groups = 0;
    thread.copies.clear();
    warps_[i / kLanes].exists |= 1u << i % kLanes;
    set_ready(i);
  }
#ifdef __SANITIZE_ADDRESS__
  ASAN_POISON_MEMORY_REGION(arena_->bytes, kArenaBytes);
#endif
  shared_.clear();
  arena_used_ = kGapBytes;
  shared_bytes_ = 0;
  reserve(nullptr, grid.dynamic_shared_bytes, "dynamic_shared");
}

// Memory of the arena with a gap behind it, filled with bytes that are NaN as floats and −1 as integers.
char* Block::reserve(const void* site, size_t bytes, const char* name) {
  char* address = arena_->bytes + arena_used_;
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(address, bytes);
#endif
  memset(address, 0xff, bytes);
  arena_used_ += round_up(bytes, kGapBytes) + kGapBytes;
  shared_bytes_ += bytes;
  shared_.push_back({site, address, bytes, name});
  return address;
}

void* Block::shared_variable(const void* site, size_t bytes, size_t alignment, const char* name, const void* place) {
  for (const SharedVariable& variable : shared_) {
    if (variable.site == site) return variable.address;
  }
  if (alignment > kGapBytes) fail(std::string("the shared variable `") + name + "` is aligned too widely", place);
  const size_t static_bytes = shared_bytes_ - shared_.front().bytes + bytes;
  if (static_bytes > kStaticSharedLimit || shared_bytes_ + bytes > kSharedMemoryLimit) {
    fail("the block's shared memory exceeds " + std::to_string(kStaticSharedLimit) + " bytes of variables, or " +
             std::to_string(kSharedMemoryLimit) + " in all, with `" + name + "`",
         place);
  }
  return reserve(site, bytes, name);
}

void Block::set_ready(int thread) {
  warps_[thread / kLanes].ready |= 1u << thread % kLanes;
  ready_warps_ |= 1u << thread / kLanes;
}

// The thread whose turn it is, no longer among the ready ones; -1 if there is none.
int Block::next_thread() {
  if (ready_warps_ == 0) return -1;
  if ((ready_warps_ >> warp_ & 1) == 0 || schedule_.leaves_warp()) warp_ = schedule_.choose(ready_warps_);
  Warp& warp = warps_[warp_];
  const int lane = schedule_.choose(warp.ready);
  warp.ready &= ~(1u << lane);
  if (warp.ready == 0) ready_warps_ &= ~(1u << warp_);
  return warp_ * kLanes + lane;
}

void Block::select(int thread) {
  running_ = thread;
  builtins.thread_index = threads_[thread].index;
}

void Block::run_fibre() {
  begin_fibre();
  running_block()->run_threads();
}

// What a fibre does: it runs threads from their beginning, one after the other, until the next one has a stack already.
// So threads that never wait share one stack, and cost no switch.
void Block::run_threads() {
  for (;;) {
    threads_[running_].started = true;
    grid_->run_thread(grid_->arguments);
    threads_[running_].finished = true;
    ++finished_;
    const int next = next_thread();
    if (next < 0) {
      if (finished_ < count_) report_stuck();
      end();
    }
    select(next);
    if (threads_[next].started) {
      stacks_.release(stack_in_use_);
      stack_in_use_ = threads_[next].fibre;
      leave_fibre(stack_in_use_);
    }
  }
}

// Suspends the running thread until its turn comes.
void Block::give_way() {
  const int self = running_;
  const int next = next_thread();
  if (next < 0) report_stuck();
  if (next == self) return;
  select(next);
  Fibre& mine = threads_[self].fibre;
  mine = stack_in_use_;
  stack_in_use_ = threads_[next].started ? threads_[next].fibre : stacks_.start(run_fibre);
  switch_fibre(mine, stack_in_use_);
}

void Block::sync_block(const void* place) {
  Thread& self = threads_[running_];
  self.place = place;
  self.wait = Thread::Wait::kBarrier;
  if (++at_barrier_ == count_) {
    check_same_place(0, count_, "sync_block()");
    at_barrier_ = 0;
    for (int i = 0; i < count_; ++i) {
      threads_[i].wait = Thread::Wait::kNothing;
      set_ready(i);
    }
    warp_ = schedule_.choose(ready_warps_);
    checker::pass_block_barrier();
  }
  give_way();
}

void Block::exchange(const Visit& visit, const void* place) {
  Warp& warp = warps_[running_ / kLanes];
  const uint32_t own = 1u << running_ % kLanes;
  if ((visit.members & own) == 0) fail("takes part in an exchange between lanes without being a member", place);
  if ((visit.members & ~warp.exists) != 0) fail("an exchange names lanes that the block does not have", place);
  threads_[running_].place = place;
  threads_[running_].wait = Thread::Wait::kExchange;
  warp.visits[running_ % kLanes] = visit;
  warp.arrived |= own;
  if ((warp.arrived & visit.members) == visit.members) {
    for (int lane = 0; lane < kLanes; ++lane) {
      if ((visit.members >> lane & 1) == 0) continue;
      const Visit& other = warp.visits[lane];
      const Thread& thread = threads_[first_of_warp() + lane];
      if (other.complete != visit.complete || other.members != visit.members) {
        fail("meets thread " + name(thread.index) + " in another exchange, at " + describe_place(thread.place), place);
      }
      threads_[first_of_warp() + lane].wait = Thread::Wait::kNothing;
      set_ready(first_of_warp() + lane);
    }
    if (visit.members == warp.exists) check_same_place(first_of_warp(), std::popcount(warp.exists), "an exchange");
    warp.arrived &= ~visit.members;
    visit.complete(visit.members, warp.visits);
  }
  give_way();
}

// Threads that meet must have made the same call. (The compiler may have made several copies of it.)
void Block::check_same_place(int first, int count, const char* what) {
  const void* place = threads_[first].place;
  for (int i = first + 1; i < first + count; ++i) {
    const void* other = threads_[i].place;
    if (other == place || describe_place(other) == describe_place(place)) continue;
    fail(std::string(what) + " meets another one, of thread " + name(threads_[first].index) + " at " +
             describe_place(place),
         other, i);
  }
}

// Whether the thread `waiting` cannot go on before the thread `other` comes.
bool Block::waits_for(int waiting, int other) const {
  if (threads_[waiting].wait == Thread::Wait::kBarrier) return threads_[other].wait != Thread::Wait::kBarrier;
  const Warp& warp = warps_[waiting / kLanes];
  const uint32_t missing = warp.visits[waiting % kLanes].members & ~warp.arrived;
  return waiting / kLanes == other / kLanes && (missing >> other % kLanes & 1) != 0;
}

// No thread can run, and not all have finished.
void Block::report_stuck() {
  for (const Thread::Wait wait : {Thread::Wait::kBarrier, Thread::Wait::kExchange}) {
    for (int waiting = 0; waiting < count_; ++waiting) {
      if (threads_[waiting].wait != wait) continue;
      for (int other = 0; other < count_; ++other) {
        if (!waits_for(waiting, other)) continue;
        const Thread& missing = threads_[other];
        fail(std::string(wait == Thread::Wait::kBarrier ? "sync_block()" : "an exchange between lanes") +
                 " is not reached by thread " + name(missing.index) +
                 (missing.finished ? ", which has returned from the kernel"
                                   : ", which waits at " + describe_place(missing.place)),
             threads_[waiting].place, waiting);
      }
    }
  }
  std::abort();  // the last thread that came waits for somebody
}

// The stacks of unfinished threads are dropped as they are: what is on them is not destroyed.
void Block::fail(const std::string& what, const void* place, int thread) {
  fault_ = "kernel " + std::string(grid_->kernel) + ", block " + name(index_) + ", thread " +
           name(threads_[thread].index) + ", " + describe_place(place) + ": " + what + ".";
  end();
}

void Block::end() {
  stacks_.release_all();
  leave_fibre(outside_);
}

}  // namespace visgen::host
