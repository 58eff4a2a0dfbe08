// Key tiles packed for many query tasks: a part of the queries at a time, so that the memory stays small and
// warm and the tensors' rows, which hold all heads, are read in their order.
#pragma once

#include <functional>
#include <vector>

#include "cpu/attention/kernels.h"
#include "cpu/attention/tiles.h"

namespace lck {

// Queries [queries.begin, queries.end) of a sequence against one kv head, whose key tiles are packed while
// the part's wave runs.
struct WavePart {
  int64_t sequence, kv_head;
  int64_t near_heads;  // kv heads from this one on that come next with the same queries
  Span queries;
  PackedTiles tiles;
};

// Packs the key tiles that queries see and calls run(parts) for wave
// after wave, over all kv heads and the sequences that are wanted. The parts of one kv head come in the order
// of their sequences and queries; a part's first query is a multiple of `step`.
void run_waves(const AttentionForwardKernels& kernels, const AttentionParams& params,
               const std::function<bool(const Sequence&)>& wanted, int64_t step,
               const std::function<void(const std::vector<WavePart>& parts)>& run);

// Runs body(task, scratch) for every task. task_work: about how many elements or products one task handles,
// so that little work stays on one thread.
void run_with_scratch(int64_t num_tasks, int64_t task_work, int64_t scratch_bytes,
                      const std::function<void(int64_t task, void* scratch)>& body);

}  // namespace lck
