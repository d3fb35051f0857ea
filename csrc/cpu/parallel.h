// Spreads work over torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <exception>

namespace visgen {

// body(first, last) over shares of [begin, end), of at least `grain`. An error in one of them is thrown here: torch's
// own loop forgets what it said.
template <class Body>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Body& body) {
  std::exception_ptr error;
  std::atomic_flag taken = ATOMIC_FLAG_INIT;
  torch::stable::parallel_for(begin, end, grain, [&](int64_t first, int64_t last) {
    try {
      body(first, last);
    } catch (...) {
      if (!taken.test_and_set()) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

}  // namespace visgen
