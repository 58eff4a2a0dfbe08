// Key tiles packed for many query tasks, in waves: a part of the queries at a time, so that the packed tiles
// fit in the cache and the tensors' rows, which contain all heads, are read in memory order.
#pragma once

#include <functional>
#include <vector>

#include "cpu/attention/query_tasks.h"

namespace lck {

// Products or elements that justify one more thread: about ten microseconds.
inline constexpr int64_t kThreadWork = int64_t{1} << 19;

// For each wave, packs the key tiles that its queries see and calls run(parts); over all kv heads and the
// sequences for which wanted() is true. The parts of one kv head are sorted by sequence and query; a part's
// first query is a multiple of `step`.
void run_waves(const AttentionForwardKernels& kernels, const AttentionParams& params,
               const std::function<bool(const Sequence&)>& wanted, int64_t step,
               const std::function<void(const std::vector<QueryPart>& parts)>& run);

// Runs body(task, scratch) for every task. task_work: about the number of elements or products of one task,
// so that little work runs on one thread.
void run_with_scratch(int64_t num_tasks, int64_t task_work, int64_t scratch_bytes,
                      const std::function<void(int64_t task, void* scratch)>& body);

}  // namespace lck
