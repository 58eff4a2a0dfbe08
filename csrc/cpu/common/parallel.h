// Work on torch's threads, or on the calling one alone in a forked child. No torch in this header.
#pragma once

#include <cstdint>
#include <functional>

namespace lck {

// Gives the next task, or -1 when none is left.
using NextTask = std::function<int64_t()>;

// Runs tasks [0, num_tasks): body is called once on each thread that takes part, makes its scratch there and
// takes tasks from next() until that gives -1, so that threads stay busy to the end. next() gives out
// ascending numbers, and a body ends one task before it takes another: a task may wait for earlier ones
// (event_counts.h). What a task writes must not depend on who runs it. The first exception of a body is
// thrown again here, once all have returned. grain: tasks that are worth waking another thread for.
void run_tasks(int64_t num_tasks, int64_t grain, const std::function<void(const NextTask& next)>& body);

// Threads that run_tasks may use.
int64_t num_threads();

// Runs body(begin, end) over contiguous ranges that cover [0, size), each of at least `grain` (but where size
// is less); exceptions as in run_tasks.
void run_ranges(int64_t size, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace lck
