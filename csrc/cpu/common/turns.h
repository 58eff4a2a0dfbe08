// Tasks that run at the same time and write to the same places in a fixed order. No standard headers: files
// that are compiled once per instruction set include this.
#pragma once

#include <cstdint>

namespace lck {

// A count of ended turns at each place. A task may wait only for tasks that run_tasks gave out before it, so
// that the first of those that run never waits; it must end its turns, so it must not throw.
class Turns {
 public:
  explicit Turns(int64_t places);
  ~Turns();
  Turns(const Turns&) = delete;
  Turns& operator=(const Turns&) = delete;

  // Returns when `turn` turns have ended at the place, and sees what they wrote.
  void wait(int64_t place, int64_t turn) const;
  void end(int64_t place);

 private:
  struct Count;
  Count* ended_;
};

}  // namespace lck
