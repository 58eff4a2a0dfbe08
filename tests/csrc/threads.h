// The kernels' threads in these tests: std::thread, as many as the test asks for.
#pragma once

namespace lck::test {

// How many threads run_tasks and run_ranges use from now on.
void set_num_threads(int count);

}  // namespace lck::test
