#include "cpu/common/after_fork.h"

#include <pthread.h>

#include <condition_variable>
#include <thread>

namespace lck {

namespace {

// One thread that runs regions, one at a time. It is never destroyed: it waits when the process exits.
class RegionThread {
 public:
  RegionThread() {
    std::thread([this] { loop(); }).detach();
  }

  void run(const std::function<void()>& region) {
    std::unique_lock lock(mutex_);
    region_ = &region;
    changed_.notify_all();
    changed_.wait(lock, [this] { return region_ == nullptr; });
  }

 private:
  [[noreturn]] void loop() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return region_ != nullptr; });
      (*region_)();
      region_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* region_ = nullptr;
};

std::mutex* mutex_of_child = nullptr;
pthread_t copied_thread;
RegionThread* region_thread = nullptr;

// Runs in the child, on its only thread. A RegionThread of the parent does not exist here, and its mutex may
// be locked.
void begin_child() {
  mutex_of_child = new std::mutex;
  copied_thread = pthread_self();
  region_thread = nullptr;
}

// Registered when the library is loaded.
const int fork_handler = pthread_atfork(nullptr, nullptr, begin_child);

}  // namespace

std::mutex* child_mutex() {
  return mutex_of_child;
}

bool copied_by_fork() {
  return mutex_of_child != nullptr && pthread_equal(pthread_self(), copied_thread);
}

void run_beside_copied_thread(const std::function<void()>& region) {
  if (region_thread == nullptr) region_thread = new RegionThread;
  region_thread->run(region);
}

}  // namespace lck
