// Order among tasks that run at the same time and write to the same memory. No standard headers: files that
// are compiled once per instruction set include this.
#pragma once

#include <cstdint>

namespace lck {

// An array of event counts (Reed and Kanodia, 1979). A task may await only what tasks with lower numbers of
// the same run_tasks advance, so that the lowest running one never waits; it must not throw before it has
// advanced its counts.
class EventCounts {
 public:
  explicit EventCounts(int64_t size);
  ~EventCounts();
  EventCounts(const EventCounts&) = delete;
  EventCounts& operator=(const EventCounts&) = delete;

  // Returns when the count has reached `value`; what was written before those advances is then visible.
  void await(int64_t index, int64_t value) const;
  void advance(int64_t index);

 private:
  struct Count;
  Count* counts_;
};

}  // namespace lck
