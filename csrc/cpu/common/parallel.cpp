// After fork() the child has none of the parent's OpenMP threads, and a parallel region would wait for them
// forever: a child runs everything on the calling thread.
#include "cpu/common/parallel.h"

#include <pthread.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <exception>

namespace lck {

namespace {

// Above the number of threads of any machine.
constexpr int64_t kMostSlots = 1024;

std::atomic<bool> forked{false};

// Registered when the library is loaded.
const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace

void run_ranges(int64_t size, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body) {
  if (size <= 0) return;
  if (forked || size <= grain) return body(0, size);
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  torch::stable::parallel_for(0, size, grain, [&](int64_t begin, int64_t end) {
    try {
      body(begin, end);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

int64_t num_threads() {
  return forked ? 1 : torch::stable::get_num_threads();
}

void run_tasks(int64_t num_tasks, int64_t grain, const std::function<void(const NextTask& next)>& body) {
  std::atomic<int64_t> taken{0};
  const NextTask next = [&taken, num_tasks] {
    const int64_t task = taken.fetch_add(1, std::memory_order_relaxed);
    return task < num_tasks ? task : -1;
  };
  run_ranges(std::min(num_tasks, kMostSlots), grain, [&](int64_t, int64_t) { body(next); });
}

}  // namespace lck
