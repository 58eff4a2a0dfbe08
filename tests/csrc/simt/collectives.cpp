// Synchronization of lanes of a warp and of all threads of the block, and asynchronous copies.
#include <cstring>

#include "fiber.h"
#include "sanitizers.h"

namespace simt {

namespace {

Warp& own_warp() {
  return block.warps[block.current->warp];
}

// memcpy that the sanitizers do not intercept.
void copy_bytes(void* to, const void* from, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i)
    static_cast<volatile char*>(to)[i] = static_cast<const volatile char*>(from)[i];
}

struct Shuffle {
  void* value;
  size_t bytes;
  int source;
};

void exchange(void** brought, uint32_t mask) {
  char values[32][16];
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const auto& mine = *static_cast<Shuffle*>(brought[lane]);
    if (!(mask >> mine.source & 1))
      fail("shfl: lane %d reads lane %d, which is not there", lane, mine.source);
    copy_bytes(values[lane], static_cast<Shuffle*>(brought[mine.source])->value, mine.bytes);
  }
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const auto& mine = *static_cast<Shuffle*>(brought[lane]);
    copy_bytes(mine.value, values[lane], mine.bytes);
  }
}

struct Vote {
  bool mine;
  unsigned all;
};

void count_votes(void** brought, uint32_t mask) {
  unsigned all = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) all |= static_cast<unsigned>(static_cast<Vote*>(brought[lane])->mine) << lane;
  }
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) static_cast<Vote*>(brought[lane])->all = all;
  }
}

}  // namespace

void warp_collective(const char* what, uint32_t mask, void* mine, Act act) {
  Warp& warp = own_warp();
  const int self = block.current->lane;
  if (!(mask >> self & 1)) fail("%s: the calling lane is not in its mask %08x", what, mask);
  Collective *pending = nullptr, *unused = nullptr;
  for (Collective& other : warp.collectives) {
    if (!other.what) unused = &other;
    if (other.what && (other.mask & mask)) pending = &other;
  }
  if (pending && (pending->mask != mask || std::strcmp(pending->what, what) != 0)) {
    fail("a divergent warp: %s(%08x) while other lanes are at %s(%08x)", what, mask, pending->what,
         pending->mask);
  }
  if (!pending) {
    pending = unused;
    pending->mask = mask, pending->arrived = 0, pending->what = what;
  }
  pending->brought[self] = mine;
  pending->arrived |= 1u << self;
  if (pending->arrived != mask) return wait_for(what);
  if (act) act(pending->brought, mask);
  pending->what = nullptr;
  for (int lane = 0; lane < 32; ++lane) {
    if (lane != self && (mask >> lane & 1)) make_ready(block.fibers[block.current->warp * 32 + lane]);
  }
}

void sync_warp(uint32_t mask) {
  Clock& clock = own_warp().clocks[own_warp().round & 1];
  release(&clock);
  warp_collective("syncwarp", mask, nullptr, [](void**, uint32_t) { ++own_warp().round; });
  acquire(&clock);
}

void open_barrier() {
  block.barrier.arrived = 0;
  ++block.barrier.round;
  for (int i = 0; i < block.num_threads; ++i) {
    Fiber& fiber = block.fibers[i];
    if (!fiber.at_barrier) continue;
    fiber.at_barrier = false;
    make_ready(fiber);
  }
}

void sync_block() {
  Barrier& barrier = block.barrier;
  Clock& clock = barrier.clocks[barrier.round & 1];
  release(&clock);
  if (++barrier.arrived == block.live) {
    open_barrier();
  } else {
    block.current->at_barrier = true;
    wait_for("__syncthreads");
  }
  acquire(&clock);
}

void shuffle(const char* what, uint32_t mask, void* value, size_t bytes, int source_lane) {
  Shuffle mine{value, bytes, source_lane};
  warp_collective(what, mask, &mine, exchange);
}

unsigned ballot(uint32_t mask, bool vote) {
  Vote mine{vote, 0};
  warp_collective("ballot", mask, &mine, count_votes);
  return mine.all;
}

void add_copy(uint32_t to, const void* from) {
  Copies& copies = block.current->copies;
  if (copies.end - copies.first == kMaxCopies) fail("more than %d copies in flight", kMaxCopies);
  copies.ring[copies.end++ % kMaxCopies] = {to, from, copies.group};
}

void commit_copies() {
  ++block.current->copies.group;
}

bool finished_copy(unsigned groups_in_flight, AsyncCopy* copy) {
  Copies& copies = block.current->copies;
  if (copies.first == copies.end) return false;
  const AsyncCopy& first = copies.ring[copies.first % kMaxCopies];
  if (first.group + groups_in_flight >= copies.group) return false;
  *copy = first;
  ++copies.first;
  return true;
}

}  // namespace simt
