#include "host/roofline_passes.h"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <stdexcept>
#include <thread>

namespace lck {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxThreads = 1024;
constexpr std::size_t kMinPasses = 3;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

}  // namespace

void check_threads(int threads) {
  if (threads < 1 || threads > kMaxThreads) {
    throw std::invalid_argument("threads must be in [1, 1024], got " + std::to_string(threads));
  }
}

double time_pass(int threads, const std::function<void(int)>& work) {
  Clock::time_point begin;
  std::vector<Clock::time_point> ends(threads);
  std::barrier start(threads, [&]() noexcept { begin = Clock::now(); });
  const auto run = [&](int thread) {
    start.arrive_and_wait();
    work(thread);
    ends[thread] = Clock::now();
  };
  std::vector<std::thread> others;
  others.reserve(threads - 1);
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
  run(0);
  for (std::thread& other : others) other.join();
  return seconds_between(begin, *std::max_element(ends.begin(), ends.end()));
}

Rate repeat_passes(double seconds, double amount, const std::function<double()>& pass) {
  if (!(seconds > 0)) {
    throw std::invalid_argument("seconds must be positive, got " + std::to_string(seconds));
  }
  const Clock::time_point begin = Clock::now();
  pass();
  std::vector<double> times;
  while (times.size() < kMinPasses || seconds_between(begin, Clock::now()) < seconds) times.push_back(pass());
  std::sort(times.begin(), times.end());
  return {amount / times[times.size() / 2], amount / times.front(), static_cast<int>(times.size()), ""};
}

}  // namespace lck
