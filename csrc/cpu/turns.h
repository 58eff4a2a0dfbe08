// Tasks that run at the same time and write to the same places in a fixed order.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace lck {

// A count of ended turns at each place. A task may wait only for tasks that were begun before it, so that the
// first of those that run never waits.
class Turns {
 public:
  explicit Turns(int64_t places);
  // Returns when `turn` turns have ended at the place, and sees what they wrote.
  void wait(int64_t place, int64_t turn) const;
  void end(int64_t place);

 private:
  std::unique_ptr<std::atomic<int64_t>[]> ended_;
};

}  // namespace lck
