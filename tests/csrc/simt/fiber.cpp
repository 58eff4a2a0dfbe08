#include "fiber.h"

#include <cstdio>
#include <cstdlib>

#include "sanitizers.h"

extern "C" void simt_switch(void** save_stack_pointer, void* stack_pointer);

// System V, x86-64: the callee-saved registers are saved on the old stack and restored from the new one.
asm(R"(
.text
.globl simt_switch
.type simt_switch,@function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch,.-simt_switch
)");

uint3 threadIdx;

namespace simt {

Block block;

namespace {

constexpr unsigned kNoSync = 1;      // a switch of ThreadSanitizer's fibers orders nothing
constexpr size_t kPoisoned = 16384;  // bytes of a stack's top that are NaN
constexpr int kSavedRegisters = 6;

const void* scheduler_stack;
size_t scheduler_stack_bytes;

void enter_thread() {
  if (__sanitizer_finish_switch_fiber) {
    const void* stack;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &stack, &bytes);
    if (!scheduler_stack) scheduler_stack = stack, scheduler_stack_bytes = bytes;
  }
  Fiber& self = *block.current;
  acquire(&block.begun);
  try {
    (*block.thread)();
    if (self.copies.first != self.copies.end) fail("a thread ended before its asynchronous copies");
  } catch (...) {
    if (!block.error) block.error = std::current_exception();
  }
  release(&block.ended);
  self.state = State::kDone;
  block.warps[self.warp].ready &= ~(1u << self.lane);
  --block.live;
  if (block.live && block.barrier.arrived == block.live) open_barrier();
  switch_to(block.scheduler);
  std::abort();
}

}  // namespace

void prepare(Fiber& fiber) {
  fiber.stack = block.stacks + fiber.number * (kStackBytes + kGuardBytes) + kGuardBytes;
  auto* top = reinterpret_cast<uint64_t*>(fiber.stack + kStackBytes - 64);
  for (size_t i = 1; i <= kPoisoned / sizeof(*top); ++i)
    static_cast<volatile uint64_t*>(top)[-i] = ~uint64_t{0};
  *--top = 0;  // enter_thread does not return
  *--top = reinterpret_cast<uint64_t>(enter_thread);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = 0;
  fiber.stack_pointer = top;
  fiber.fake_stack = nullptr;
}

void switch_to(Fiber& next) {
  Fiber& self = *block.current;
  const bool to_scheduler = &next == &block.scheduler;
  block.current = &next;
  if (!to_scheduler) threadIdx = next.thread_index;
  if (__sanitizer_start_switch_fiber) {
    __sanitizer_start_switch_fiber(self.state == State::kDone ? nullptr : &self.fake_stack,
                                   to_scheduler ? scheduler_stack : next.stack,
                                   to_scheduler ? scheduler_stack_bytes : kStackBytes);
  }
  if (thread_sanitizer()) __tsan_switch_to_fiber(next.tsan, kNoSync);
  simt_switch(&self.stack_pointer, next.stack_pointer);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(self.fake_stack, nullptr, nullptr);
}

int next_lane(const Warp& warp) {
  const uint32_t rotated = (warp.ready >> warp.first_lane) | (uint64_t{warp.ready} << (32 - warp.first_lane));
  return (__builtin_ctz(rotated) + warp.first_lane) & 31;
}

void leave() {
  Fiber& self = *block.current;
  Warp& warp = block.warps[self.warp];
  if (self.state != State::kReady) warp.ready &= ~(1u << self.lane);
  const bool stay = warp.ready && !(options.schedule == Schedule::kRandom && random_bits() % 8 == 0);
  switch_to(stay ? block.fibers[self.warp * 32 + next_lane(warp)] : block.scheduler);
}

void wait_for(const char* what) {
  block.current->state = State::kBlocked;
  block.current->waits_for = what;
  leave();
}

void make_ready(Fiber& fiber) {
  fiber.state = State::kReady;
  block.warps[fiber.warp].ready |= 1u << fiber.lane;
}

std::string describe_threads() {
  std::string text;
  const auto what = [](const Fiber& fiber) {
    return fiber.state == State::kDone ? "ended" : fiber.state == State::kReady ? "ready" : fiber.waits_for;
  };
  for (int first = 0, next; first < block.num_threads; first = next) {
    const char* state = what(block.fibers[first]);
    for (next = first + 1; next < block.num_threads && what(block.fibers[next]) == state;) ++next;
    char line[128];
    std::snprintf(line, sizeof(line), "\n  threads %d to %d: %s", first, next - 1, state);
    text += line;
  }
  return text;
}

}  // namespace simt
