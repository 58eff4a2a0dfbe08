// The kernels' threads in these tests: std::thread, as many as the test sets.
#pragma once

namespace lck::test {

// Sets the number of threads of run_tasks and run_ranges.
void set_num_threads(int count);

}  // namespace lck::test
