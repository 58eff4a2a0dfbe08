// cpu/common/parallel.h without torch, and the options of the sanitizers for every test.
#include "threads.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "cpu/common/parallel.h"

namespace lck {

namespace {
int wanted_threads = 3;
}  // namespace

void test::set_num_threads(int count) {
  wanted_threads = count;
}

int64_t num_threads() {
  return wanted_threads;
}

void run_ranges(int64_t size, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body) {
  if (size <= 0) return;
  const int64_t parts = std::clamp<int64_t>(size / std::max<int64_t>(grain, 1), 1, wanted_threads);
  std::vector<std::thread> threads;
  for (int64_t i = 1; i < parts; ++i) threads.emplace_back(body, size * i / parts, size * (i + 1) / parts);
  body(0, size / parts);
  for (std::thread& thread : threads) thread.join();
}

// For any grain, so that small problems run on several threads.
void run_tasks(int64_t num_tasks, int64_t, const std::function<void(const NextTask& next)>& body) {
  std::atomic<int64_t> taken{0};
  const NextTask next = [&] {
    const int64_t task = taken.fetch_add(1, std::memory_order_relaxed);
    return task < num_tasks ? task : -1;
  };
  run_ranges(num_tasks, 1, [&](int64_t, int64_t) { body(next); });
}

}  // namespace lck

// New memory contains NaN, so that the use of uninitialised memory is detected.
extern "C" const char* __asan_default_options() {
  return "max_malloc_fill_size=1073741824:malloc_fill_byte=255";
}
