#include "cpu/turns.h"

#include <thread>

namespace lck {

Turns::Turns(int64_t places) : ended_(new std::atomic<int64_t>[places]) {
  for (int64_t i = 0; i < places; ++i) ended_[i].store(0, std::memory_order_relaxed);
}

void Turns::wait(int64_t place, int64_t turn) const {
  while (ended_[place].load(std::memory_order_acquire) < turn) std::this_thread::yield();
}

void Turns::end(int64_t place) {
  ended_[place].fetch_add(1, std::memory_order_release);
}

}  // namespace lck
