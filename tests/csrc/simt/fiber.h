// The threads of the running block as fibers, and the state of their synchronization.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>

#include "runtime.h"

namespace simt {

inline constexpr int kMaxThreads = 1024, kMaxCopies = 256;
inline constexpr size_t kStackBytes = 128 << 10, kGuardBytes = 4096, kMaxSmemBytes = 227 << 10;

// An address for ThreadSanitizer's happens-before clocks.
struct Clock {
  alignas(8) char key[8];
};

// A collective operation of lanes of a warp that is not complete.
struct Collective {
  uint32_t mask = 0, arrived = 0;
  const char* what = nullptr;  // null: free
  void* brought[32];
};

struct Barrier {
  int arrived = 0;
  unsigned round = 0;
  Clock clocks[2];  // of this round and the one before, which some threads may not have left
};

// Copies in flight; not on the heap, which ThreadSanitizer would instrument.
struct Copies {
  AsyncCopy ring[kMaxCopies];
  unsigned first = 0, end = 0, group = 0;
};

enum class State { kReady, kBlocked, kDone };

struct Fiber {
  void* stack_pointer = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  void* tsan = nullptr;
  char* stack = nullptr;
  uint3 thread_index{};
  int number = 0, warp = 0, lane = 0;
  State state = State::kReady;
  const char* waits_for = "";
  bool at_barrier = false;
  Copies copies;
};

struct Warp {
  uint32_t ready = 0;
  int first_lane = 0;  // where the search for a ready lane begins
  uint64_t priority = 0;
  Collective collectives[32];
  Clock clocks[2];
  unsigned round = 0;
};

// The running block; its threads are fibers[0 .. num_threads).
struct Block {
  int num_threads = 0, num_warps = 0, live = 0;
  Fiber* current = nullptr;
  Fiber fibers[kMaxThreads];
  Warp warps[kMaxThreads / 32];
  Barrier barrier;
  Fiber scheduler;  // the scheduler's own context
  char *smem = nullptr, *stacks = nullptr;
  size_t smem_bytes = 0;
  const std::function<void()>* thread = nullptr;
  std::exception_ptr error;
  Clock begun, ended;
};
extern Block block;

uint64_t random_bits();

// Prepares `fiber` so that the first switch to it enters the thread's body.
void prepare(Fiber& fiber);
void switch_to(Fiber& next);
// Switches from the current thread to another, permanently if its state is kDone.
void leave();
void wait_for(const char* what);
void make_ready(Fiber& fiber);
int next_lane(const Warp& warp);
// Resumes the threads at the block's barrier.
void open_barrier();
// A line for each run of threads in the same state.
std::string describe_threads();

}  // namespace simt
