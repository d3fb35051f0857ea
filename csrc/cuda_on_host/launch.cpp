// Runs the blocks of a grid on the threads of the operating system, and turns a fault into an exception.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "block.h"
#include "checker.h"
#include "counter.h"

namespace visgen::host {
namespace {

int64_t schedule_from_environment() {
  const char* text = std::getenv("VISGEN_HOST_SCHEDULE");
  return text == nullptr ? 0 : std::atoll(text);
}

std::atomic<int64_t> schedule{schedule_from_environment()};

unsigned worker_limit() {
  if (checker::kEnabled) return 1;  // it follows one block at a time
  const char* text = std::getenv("OMP_NUM_THREADS");
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  return text == nullptr ? cores : std::clamp(std::atoi(text), 1, static_cast<int>(cores));
}

// Blocks are costly to make (stacks, shared memory), so launches pass them on.
class BlockPool {
 public:
  std::unique_ptr<Block> take() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) return std::make_unique<Block>();
    std::unique_ptr<Block> block = std::move(free_.back());
    free_.pop_back();
    return block;
  }
  void give(std::unique_ptr<Block> block) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(block));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Block>> free_;
};

BlockPool& block_pool() {
  static BlockPool& pool = *new BlockPool;  // outlives every thread
  return pool;
}

// Why no GPU would take a launch; null if one would.
const char* reason_to_refuse(const Grid& grid) {
  const uint64_t threads = uint64_t{grid.block.x} * grid.block.y * grid.block.z;
  if (threads > kMaxThreadsPerBlock || grid.block.z > 64) return "a block has at most 1024 threads, 64 in z";
  if (grid.shape.x > INT32_MAX || grid.shape.y > 65535 || grid.shape.z > 65535) {
    return "a grid has at most 2147483647 x 65535 x 65535 blocks";
  }
  if (grid.dynamic_shared_bytes > kSharedMemoryLimit) return "a block has at most 101376 bytes of shared memory";
  return nullptr;
}

// The position-th block to run.
uint64_t block_at(uint64_t position, uint64_t count, int64_t seed) {
  if (seed == 0) return position;
  if (seed < 0) return count - 1 - position;
  uint64_t stride = static_cast<uint64_t>(seed) * 7919 % count;
  while (std::gcd(stride, count) != 1) ++stride;
  return (position % count * (stride % count) + static_cast<uint64_t>(seed)) % count;
}

class Launch {
 public:
  explicit Launch(const Grid& grid) : grid_(grid), count_(uint64_t{grid.shape.x} * grid.shape.y * grid.shape.z) {}

  void run() {
    std::vector<std::thread> others;
    const uint64_t workers = std::min<uint64_t>(worker_limit(), count_);
    for (uint64_t i = 1; i < workers; ++i) others.emplace_back([this] { work(); });
    work();
    for (std::thread& other : others) other.join();
    if (!fault_.empty()) throw std::runtime_error(fault_);
  }

 private:
  void work() {
    std::unique_ptr<Block> block = block_pool().take();
    for (uint64_t position; (position = next_.fetch_add(1)) < count_;) {
      std::string fault = block->run(grid_, block_at(position, count_, grid_.schedule));
      if (fault.empty()) continue;
      next_ = count_;
      const std::lock_guard lock(mutex_);
      if (fault_.empty()) fault_ = std::move(fault);
    }
    block_pool().give(std::move(block));
  }

  const Grid& grid_;
  const uint64_t count_;
  std::atomic<uint64_t> next_{0};
  std::mutex mutex_;
  std::string fault_;
};

}  // namespace

void launch(std::string_view kernel, dim3 grid, dim3 block, size_t dynamic_shared_bytes,
            void (*run_thread)(const void* arguments), const void* arguments, size_t argument_bytes) {
  const Grid whole{kernel, grid, block, dynamic_shared_bytes, run_thread, arguments, schedule};
  if (const char* reason = reason_to_refuse(whole)) {
    throw std::runtime_error("kernel " + std::string(kernel) + ": " + reason + ".");
  }
  if (counter::observe(kernel, grid, block, dynamic_shared_bytes, arguments, argument_bytes)) return;
  static std::mutex one_checked_launch;
  std::unique_lock lock(one_checked_launch, std::defer_lock);
  if (checker::kEnabled) lock.lock();
  checker::begin_launch(arguments, argument_bytes);
  Launch(whole).run();
}

}  // namespace visgen::host

void visgen_host_set_schedule(int64_t seed) { visgen::host::schedule = seed; }
