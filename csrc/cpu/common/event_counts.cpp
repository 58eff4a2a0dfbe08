#include "cpu/common/event_counts.h"

#include <atomic>
#include <thread>

namespace lck {

struct EventCounts::Count {
  std::atomic<int64_t> value{0};
};

EventCounts::EventCounts(int64_t size) : counts_(new Count[size]) {}

EventCounts::~EventCounts() {
  delete[] counts_;
}

void EventCounts::await(int64_t index, int64_t value) const {
  while (counts_[index].value.load(std::memory_order_acquire) < value) std::this_thread::yield();
}

void EventCounts::advance(int64_t index) {
  counts_[index].value.fetch_add(1, std::memory_order_release);
}

}  // namespace lck
