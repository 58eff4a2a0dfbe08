// Timing of the roofline probes: the same work on every thread.
#pragma once

#include <functional>

#include "host/roofline.h"

namespace lck {

// Throws std::invalid_argument naming the argument unless it is in [1, 1024].
void check_threads(int threads);

// Seconds of work(thread) on that many threads, from the common start to the end of the last.
double time_pass(int threads, const std::function<void(int)>& work);

// Calls pass(), which returns seconds, for `seconds`, at least three times after a warm-up.
// Returns amount / time over the calls. Throws std::invalid_argument unless seconds is positive.
Rate repeat_passes(double seconds, double amount, const std::function<double()>& pass);

}  // namespace lck
