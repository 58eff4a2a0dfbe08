// The scheduler: grid > blocks in order > warps in the order of the schedule > lanes.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <utility>

#include "fiber.h"
#include "memory.h"
#include "sanitizers.h"

uint3 blockIdx;
dim3 blockDim, gridDim;

namespace simt {

namespace {

// LCK_SCHEDULE is the name of a schedule, followed by a colon and a seed if it has one.
Options options_from_environment() {
  Options chosen;
  const char* given = std::getenv("LCK_SCHEDULE");
  if (!given) return chosen;
  const std::string text = given, name = text.substr(0, text.find(':'));
  const std::pair<const char*, Schedule> names[] = {{"round-robin", Schedule::kRoundRobin},
                                                    {"first", Schedule::kFirst},
                                                    {"last", Schedule::kLast},
                                                    {"random", Schedule::kRandom},
                                                    {"priorities", Schedule::kPriorities}};
  for (const auto& [known, schedule] : names) {
    if (name != known) continue;
    chosen.schedule = schedule;
    if (name.size() < text.size()) chosen.seed = std::strtoull(text.c_str() + name.size() + 1, nullptr, 10);
    return chosen;
  }
  std::fprintf(stderr,
               "LCK_SCHEDULE: got %s; allowed are round-robin, first, last, random:SEED, priorities:SEED\n",
               given);
  std::exit(2);
}

}  // namespace

Options options = options_from_environment();
uint64_t bank_conflicts = 0;

namespace {

constexpr uint64_t kMaxSwitches = 50'000'000;  // of a block's warps: more is a livelock
uint64_t random_state = 1;

bool at_random() {
  return options.schedule == Schedule::kRandom || options.schedule == Schedule::kPriorities;
}

Warp* pick_warp() {
  static int last = 0;
  Warp* best = nullptr;
  const int count = block.num_warps;
  const int start = options.schedule == Schedule::kRoundRobin ? last + 1
                    : options.schedule == Schedule::kRandom   ? static_cast<int>(random_bits() % count)
                                                              : 0;
  for (int k = 0; k < count; ++k) {
    const int i = options.schedule == Schedule::kLast ? count - 1 - k : (start + k) % count;
    Warp& warp = block.warps[i];
    if (!warp.ready) continue;
    if (options.schedule != Schedule::kPriorities) {
      last = i;
      return &warp;
    }
    if (!best || warp.priority > best->priority) best = &warp;
  }
  if (best && random_bits() % 32 == 0) best->priority = random_bits();
  return best;
}

void prepare_warps() {
  for (int i = 0; i < block.num_warps; ++i) {
    Warp& warp = block.warps[i];
    const int lanes = block.num_threads - i * 32;
    warp.ready = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    warp.first_lane = at_random()                           ? static_cast<int>(random_bits() % 32)
                      : options.schedule == Schedule::kLast ? 31
                                                            : 0;
    warp.priority = random_bits();
    for (Collective& one : warp.collectives) one.what = nullptr;
  }
}

void prepare_threads(dim3 size) {
  for (int i = 0; i < block.num_threads; ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.number = i, fiber.warp = i / 32, fiber.lane = i % 32;
    fiber.thread_index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    fiber.state = State::kReady, fiber.waits_for = "", fiber.at_barrier = false;
    fiber.copies.first = fiber.copies.end = fiber.copies.group = 0;
    prepare(fiber);
    if (!thread_sanitizer()) continue;
    char name[64];
    std::snprintf(name, sizeof(name), "block %u,%u,%u thread %d", blockIdx.x, blockIdx.y, blockIdx.z, i);
    fiber.tsan = __tsan_create_fiber(0);
    __tsan_set_fiber_name(fiber.tsan, name);
  }
}

void set_error(const std::string& text) {
  block.error = std::make_exception_ptr(std::runtime_error("simt: " + text + describe_threads()));
}

void run_block(dim3 size) {
  begin_memory();
  blockDim = size;
  block.live = block.num_threads;
  block.barrier.arrived = 0;
  prepare_warps();
  // Static shared memory has one address in all blocks, which are therefore ordered.
  if (static_smem_bytes()) acquire(&block.ended);
  release(&block.begun);
  prepare_threads(size);
  for (uint64_t switches = 0; block.live && !block.error; ++switches) {
    Warp* warp = pick_warp();
    if (!warp) {
      set_error("deadlock");
    } else if (switches > kMaxSwitches) {
      set_error("livelock");
    } else {
      if (at_random()) warp->first_lane = static_cast<int>(random_bits() % 32);
      switch_to(block.fibers[(warp - block.warps) * 32 + next_lane(*warp)]);
    }
  }
  for (int i = 0; thread_sanitizer() && i < block.num_threads; ++i)
    __tsan_destroy_fiber(block.fibers[i].tsan);
  end_memory();
}

}  // namespace

uint64_t random_bits() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state * 0x2545F4914F6CDD1Dull >> 16;
}

void run_blocks(dim3 grid, dim3 size, size_t smem_bytes, const std::function<void()>& thread) {
  const uint64_t threads = uint64_t{size.x} * size.y * size.z,
                 num_blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (threads < 1 || threads > kMaxThreads) throw std::runtime_error("simt: a block of too many threads");
  if (smem_bytes > kMaxSmemBytes) throw std::runtime_error("simt: more shared memory than a chip has");
  if (num_blocks == 0) throw std::runtime_error("simt: a grid of no blocks");
  block.num_threads = static_cast<int>(threads);
  block.num_warps = (block.num_threads + 31) / 32;
  block.smem_bytes = smem_bytes, block.thread = &thread, block.error = nullptr;
  block.current = &block.scheduler;
  block.scheduler.state = State::kBlocked;
  if (thread_sanitizer()) block.scheduler.tsan = __tsan_get_current_fiber();
  gridDim = grid;
  random_state = options.seed * 0x9E3779B97F4A7C15ull + 1;
  const uint64_t first = at_random() ? random_bits() % num_blocks : 0;
  for (uint64_t k = 0; k < num_blocks && !block.error; ++k) {
    const uint64_t i = options.schedule == Schedule::kLast ? num_blocks - 1 - k : (first + k) % num_blocks;
    blockIdx = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                static_cast<unsigned>(i / grid.x / grid.y)};
    run_block(size);
  }
  acquire(&block.ended);
  if (block.error) std::rethrow_exception(block.error);
}

void fail(const char* format, ...) {
  char message[512], text[640];
  va_list args;
  va_start(args, format);
  std::vsnprintf(message, sizeof(message), format, args);
  va_end(args);
  std::snprintf(text, sizeof(text), "simt: block (%u,%u,%u) thread %d: %s", blockIdx.x, blockIdx.y,
                blockIdx.z, block.current->number, message);
  throw std::runtime_error(text);
}

bool completes_early() {
  return at_random() && random_bits() % 2;
}

unsigned lane() {
  return block.current->lane;
}

}  // namespace simt
