// Parallel regions in a forked child. No torch.
#pragma once

#include <functional>
#include <mutex>

namespace lck {

// Whether the calling thread is the one that fork() copied into this process. libgomp keeps the team of that
// thread without its threads, and the thread's next parallel region would wait for them forever. Threads that
// the child starts have teams of their own.
bool copied_by_fork();

// A mutex of this process; null unless it was forked since the library was loaded.
std::mutex* child_mutex();

// Runs `region` on a thread that this process started, and returns after it. The thread is kept for the next
// call. Only the thread for which copied_by_fork() is true may call this; `region` must not throw.
void run_beside_copied_thread(const std::function<void()>& region);

}  // namespace lck
