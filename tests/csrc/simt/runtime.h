// Runs a CUDA kernel on the host: one block at a time, with a fiber per thread, so that the code of a
// kernel is tested without a GPU. Included by tests, and by kernels only through csrc/cuda/ptx.cuh.
//
// Detected: accesses outside memory (AddressSanitizer, UndefinedBehaviorSanitizer, bounds of shared memory),
// missing barriers and waits (ThreadSanitizer; NaN where data has not arrived; several schedules), divergent
// warps, deadlocks, uninitialised shared memory and, at -O0, locals on stack not used before, bank conflicts
// of ldmatrix. Not detected: errors in the host functions of the instructions (test_cuda_fragments.cpp
// compares them with CuTe's layouts), weak memory order between blocks, the rounding of tensor cores and of
// ex2, registers, time.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>

namespace simt {

// The order in which warps run: round robin, first or last first, at random, by random priorities that
// change.
enum class Schedule { kRoundRobin, kFirst, kLast, kRandom, kPriorities };

struct Options {
  Schedule schedule = Schedule::kRoundRobin;
  uint64_t seed = 1;
};
extern Options options;

// Rows of ldmatrix that waited for another one's banks, of all launches.
extern uint64_t bank_conflicts;

// Runs all blocks. Throws std::runtime_error naming block, thread and fault; the first one ends the launch.
void run_blocks(dim3 grid, dim3 block, size_t smem_bytes, const std::function<void()>& thread);

template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t smem_bytes, const Args&... args) {
  const std::tuple<Params...> params(args...);
  run_blocks(grid, block, smem_bytes, [&] { std::apply(kernel, params); });
}

// For the instructions' host functions, called by a thread of a running block.

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
unsigned lane();

// Waits for all lanes of `mask`; the last one calls `act` with the arguments of each, then all continue.
using Act = void (*)(void** brought, uint32_t mask);
void warp_collective(const char* what, uint32_t mask, void* mine, Act act);

void sync_warp(uint32_t mask);
void sync_block();
void shuffle(const char* what, uint32_t mask, void* value, size_t bytes, int source_lane);
unsigned ballot(uint32_t mask, bool vote);

void* dynamic_smem();
uint32_t shared_address(const void* p);
// The generic address of a shared one; fails outside the block's shared memory or if misaligned.
char* from_shared(uint32_t address, uint32_t bytes, uint32_t align);

// Reports an access by code without instrumentation to the sanitizers.
void note_read(const void* p, size_t bytes);
void note_write(void* p, size_t bytes);

// Asynchronous copies of a thread in its groups; `finished_copy` returns those that a wait must complete.
struct AsyncCopy {
  uint32_t to;
  const void* from;  // null: zeros
  unsigned group;
};
void add_copy(uint32_t to, const void* from);
// Whether a copy completes at once: half of the copies in random schedules, otherwise none.
bool completes_early();
void commit_copies();
bool finished_copy(unsigned groups_in_flight, AsyncCopy* copy);

}  // namespace simt
