// Parallel loops on torch's threads, in a forked child too. No torch in this header.
#pragma once

#include <cstdint>
#include <functional>

namespace lck {

// Returns the number of the next task, or -1 if there is none.
using NextTask = std::function<int64_t()>;

// Runs tasks [0, num_tasks). body is called once per thread; it allocates its scratch and runs the tasks that
// next() returns until that is -1. next() returns ascending numbers, and a body must finish a task before the
// next call: a task may wait for earlier ones (event_counts.h). The results of a task must not depend on its
// thread. The first exception of a body is rethrown after all bodies have returned. grain: number of tasks
// that justify one more thread.
void run_tasks(int64_t num_tasks, int64_t grain, const std::function<void(const NextTask& next)>& body);

// Threads that run_tasks may use.
int64_t num_threads();

// Runs body(begin, end) over contiguous ranges that cover [0, size), each of at least `grain` (or of size,
// if that is less); exceptions as in run_tasks.
void run_ranges(int64_t size, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace lck
