#include "cpu/common/parallel.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

#include "cpu/common/after_fork.h"

namespace lck {

namespace {

// Above the number of threads of any machine.
constexpr int64_t kMostSlots = 1024;

}  // namespace

void run_ranges(int64_t size, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body) {
  if (size <= 0) return;
  if (size <= grain || num_threads() == 1) return body(0, size);
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  const auto region = [&] {
    torch::stable::parallel_for(0, size, grain, [&](int64_t begin, int64_t end) {
      try {
        body(begin, end);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    });
  };
  if (copied_by_fork()) {
    run_beside_copied_thread(region);
  } else {
    region();
  }
  if (error) std::rethrow_exception(error);
}

int64_t num_threads() {
  std::unique_lock<std::mutex> lock;
  // In a child, first calls of several threads race in torch, where caffe2::pthreadpool() replaces the
  // parent's pool.
  if (child_mutex() != nullptr) lock = std::unique_lock(*child_mutex());
  return torch::stable::get_num_threads();
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
