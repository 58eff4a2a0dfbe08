// Key tiles packed for many query tasks: a few heads at a time, so that the memory stays small and warm.
#pragma once

#include <functional>
#include <vector>

#include "cpu/attention.h"

namespace lck {

// A kv head of a text; its key tile i lies at tiles + i * tile_bytes while its wave runs.
struct PackedHead {
  int64_t text, kv_head;
  const void* tiles;
};

// Every (text, kv head) for which wanted(text) holds, kv head by kv head.
std::vector<PackedHead> packed_heads(const AttentionParams& params,
                                     const std::function<bool(const Text&)>& wanted);

// Packs the key tiles that queries see (backward: as the dq pass wants them) and calls run(first, count) for
// wave after wave of `heads`. whole_heads: all texts of a kv head come in one wave.
void run_waves(const AttentionForward& passes, const AttentionParams& params, std::vector<PackedHead>* heads,
               bool backward, bool whole_heads,
               const std::function<void(const PackedHead* first, int64_t count)>& run);

// Runs body(task, scratch) for every task. task_work: about how many elements or products one task handles,
// so that little work stays on one thread.
void run_with_scratch(int64_t num_tasks, int64_t task_work, int64_t scratch_bytes,
                      const std::function<void(int64_t task, void* scratch)>& body);

}  // namespace lck
