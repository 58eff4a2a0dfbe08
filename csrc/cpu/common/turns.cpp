#include "cpu/common/turns.h"

#include <atomic>
#include <thread>

namespace lck {

struct Turns::Count {
  std::atomic<int64_t> value{0};
};

Turns::Turns(int64_t places) : ended_(new Count[places]) {}

Turns::~Turns() {
  delete[] ended_;
}

void Turns::wait(int64_t place, int64_t turn) const {
  while (ended_[place].value.load(std::memory_order_acquire) < turn) std::this_thread::yield();
}

void Turns::end(int64_t place) {
  ended_[place].value.fetch_add(1, std::memory_order_release);
}

}  // namespace lck
