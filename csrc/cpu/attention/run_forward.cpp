// The tasks of the forward of windowed attention, their order and their memory.
#include <algorithm>

#include "cpu/attention/key_waves.h"
#include "cpu/attention/query_ranges.h"
#include "cpu/attention/query_tasks.h"
#include "cpu/attention/run.h"
#include "cpu/common/parallel.h"
#include "cpu/common/workspace.h"

namespace lck {

namespace {

// kv heads of one task of a short sequence: as many as fit in the blocks and the inner caches, since keys are
// then read in memory order; but if there would be few tasks, one, or as many as a thread needs for its work.
int64_t heads_of_short_task(const AttentionParams& p, DType dtype, int64_t rows, int64_t tiles) {
  constexpr int64_t kBlockRows = 12, kMostTileBytes = int64_t{256} << 10;
  const bool in_place = reads_in_place(p, rows);
  const int64_t enough_tasks =
      in_place ? 8 : 64;  // in place the limit is memory bandwidth, which few threads reach
  const int64_t by_rows = kMostTileRows / ((rows + kBlockRows - 1) / kBlockRows * kBlockRows);
  const int64_t by_bytes = kMostTileBytes / (kTile * (p.head_dim + p.head_dim_v) * element_bytes(dtype));
  int64_t most = in_place ? by_rows : std::min(by_rows, by_bytes);
  if (tiles <= kSplitTiles && p.num_sequences < enough_tasks) {
    const int64_t head_work = rows * tiles * kTile * (p.head_dim + p.head_dim_v);
    most = in_place ? std::min(by_rows, kThreadWork / std::max<int64_t>(head_work, 1)) : 1;
  }
  return std::clamp<int64_t>(most, 1, p.num_kv_heads);
}

// Parts of the keys of a task, which differ by at most one tile; an even number, so that an even number of
// threads has equal work.
int64_t splits_of(int64_t tiles) {
  const int64_t fewest = (tiles + kSplitTiles - 1) / kSplitTiles;
  return fewest <= 1 ? 1 : fewest + fewest % 2;
}

// Sequences with few rows: one task for several heads and a part of the keys, which the task packs itself.
void run_short_sequences(const AttentionForwardKernels& kernels, DType dtype, const AttentionParams& p) {
  std::vector<QueryTask> tasks, merges;
  std::vector<int64_t> first_tasks;  // of each merge
  int64_t partial_bytes = 0;
  for (int64_t t = 0; t < p.num_sequences; ++t) {
    const Sequence& sequence = p.sequences[t];
    const int64_t rows = rows_per_kv_head(p, sequence);
    if (rows == 0 || rows > kMostTileRows) continue;
    const int64_t tiles = count(tiles_of_queries(p, sequence, {0, sequence.q_len}));
    const int64_t heads = heads_of_short_task(p, dtype, rows, tiles);
    const int64_t splits = splits_of(tiles);
    for (int64_t kv_head = 0; kv_head < p.num_kv_heads; kv_head += heads) {
      const int64_t some = std::min(heads, p.num_kv_heads - kv_head);
      const QueryTask whole{t, kv_head, some, 0, rows, {}, 0, splits, nullptr, nullptr, {}};
      if (splits > 1) {
        merges.push_back(whole);
        first_tasks.push_back(tasks.size());
        partial_bytes += splits * some * rows * (p.head_dim_v + 1) * acc_bytes(dtype);
      }
      for (int64_t split = 0; split < splits; ++split) tasks.push_back(whole), tasks.back().split = split;
    }
  }
  set_first_keys_ahead(p, dtype, num_threads(), &tasks);
  // Partial results: all outs of a merge, then its lses.
  const Workspace partial = make_workspace(partial_bytes);
  std::byte* place = partial.get();
  for (size_t i = 0; i < merges.size(); ++i) {
    QueryTask& merge = merges[i];
    const int64_t rows = merge.num_splits * merge.heads * merge.rows;
    merge.partial_out = place;
    merge.partial_lse = place + rows * p.head_dim_v * acc_bytes(dtype);
    place += rows * (p.head_dim_v + 1) * acc_bytes(dtype);
    for (int64_t split = 0; split < merge.num_splits; ++split) {
      QueryTask& task = tasks[first_tasks[i] + split];
      task.partial_out = merge.partial_out, task.partial_lse = merge.partial_lse;
    }
  }
  run_with_scratch(tasks.size(), usual_work(p, tasks), kernels.scratch_bytes(p),
                   [&](int64_t i, void* scratch) { kernels.forward(p, tasks[i], scratch); });
  const int64_t merge_work =
      merges.empty() ? 0 : merges[0].num_splits * merges[0].heads * merges[0].rows * p.head_dim_v;
  run_with_scratch(merges.size(), merge_work, 0,
                   [&](int64_t i, void*) { kernels.merge_splits(p, merges[i]); });
}

}  // namespace

void run_attention_forward(Isa isa, DType dtype, const AttentionParams& p) {
  const AttentionForwardKernels& kernels = attention_forward_kernels(isa, dtype);
  run_short_sequences(kernels, dtype, p);
  std::vector<bool> done(p.num_sequences);
  run_query_ranges(kernels, dtype, p, &done);
  const auto wanted = [&](const Sequence& sequence) {
    return rows_per_kv_head(p, sequence) > kMostTileRows && !done[&sequence - p.sequences];
  };
  run_waves(kernels, p, wanted, kQueryTileRows, [&](const std::vector<QueryPart>& parts) {
    std::vector<QueryTask> tasks;
    for (const QueryPart& part : parts) add_query_tasks(p, part, &tasks);
    set_rows_ahead(p, dtype, num_threads(), &tasks);
    run_with_scratch(tasks.size(), usual_work(p, tasks), kernels.scratch_bytes(p),
                     [&](int64_t i, void* scratch) { kernels.forward(p, tasks[i], scratch); });
  });
}

}  // namespace lck
