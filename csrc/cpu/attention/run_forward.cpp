// The tasks of the forward of windowed attention, their order and their memory.
#include <algorithm>
#include <cmath>

#include "cpu/attention/key_waves.h"
#include "cpu/attention/run.h"
#include "cpu/attention/tiles.h"
#include "cpu/common/parallel.h"
#include "cpu/common/workspace.h"

namespace lck {

namespace {

int64_t rows_per_kv_head(const AttentionParams& p, const Sequence& sequence) {
  return sequence.q_len * (p.num_heads / p.num_kv_heads);
}

// each(first_row, rows) for the query tasks of one part of a kv head. With short sequences a task has
// rows of several heads; the tasks of a sequence do not depend on its parts.
template <typename Each>
void for_query_tasks(const AttentionParams& p, const Sequence& sequence, Span queries, const Each& each) {
  const int64_t rows = rows_per_kv_head(p, sequence);
  if (rows <= kMostTileRows) return each(int64_t{0}, rows);
  const bool across = across_heads(sequence);
  const int64_t stride = across ? rows : sequence.q_len;
  if (across) queries = {0, rows};
  for (int64_t head_row = 0; head_row < rows; head_row += stride) {
    for (int64_t first = queries.begin; first < queries.end; first += kQueryTileRows) {
      each(head_row + first, std::min(kQueryTileRows, queries.end - first));
    }
  }
}

RowsAhead rows_ahead(DType dtype, const HeadsTensor& x, int64_t batch, int64_t row, int64_t head,
                     int64_t rows, int64_t elements) {
  const int64_t size = element_bytes(dtype);
  const int64_t first = batch * x.batch_stride + row * x.row_stride + head * x.head_stride;
  return {static_cast<const std::byte*>(x.data) + first * size, rows, x.row_stride * size, elements * size};
}

// Queries and outputs of the task that the thread is likely to run next: tasks take about the same time, so
// that it is the one num_threads() later.
void set_rows_ahead(const AttentionParams& p, DType dtype, std::vector<QueryTask>* tasks) {
  const int64_t step = num_threads(), number = tasks->size();
  for (int64_t i = step; i < number; ++i) {
    const QueryTask& next = (*tasks)[i];
    const Sequence& sequence = p.sequences[next.sequence];
    if (across_heads(sequence)) continue;
    const QueryRow row = query_row(p, sequence, next.kv_head, next.first_row);
    const auto rows = [&](const HeadsTensor& x, int64_t dim) {
      return rows_ahead(dtype, x, sequence.batch, sequence.q_begin + row.query, row.head, next.rows, dim);
    };
    (*tasks)[i - step].next[0] = rows(p.q, p.head_dim);
    (*tasks)[i - step].next[1] = rows(p.out, p.head_dim_v);
  }
}

std::vector<QueryTask> query_tasks(const AttentionParams& p, const std::vector<WavePart>& parts) {
  std::vector<QueryTask> tasks;
  for (const WavePart& part : parts) {
    const Sequence& sequence = p.sequences[part.sequence];
    for_query_tasks(p, sequence, part.queries, [&](int64_t first, int64_t rows) {
      tasks.push_back({part.sequence, part.kv_head, 1, first, rows, part.tiles, 0, 1, nullptr, nullptr, {}});
    });
  }
  return tasks;
}

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

// Upper bound of the products of a query task.
int64_t task_work(const AttentionParams& p, const QueryTask& task) {
  const Sequence& sequence = p.sequences[task.sequence];
  const Span positions = row_positions(sequence, task.first_row, task.rows);
  const int64_t tiles = count(tile_list(p, sequence, positions.begin, positions.end - 1));
  return task.heads * task.rows * std::min(tiles, task.num_splits > 1 ? kSplitTiles : tiles) * kTile *
         (p.head_dim + p.head_dim_v);
}

// The work of the task in the middle, used for all.
int64_t usual_work(const AttentionParams& p, const std::vector<QueryTask>& tasks) {
  return tasks.empty() ? 0 : task_work(p, tasks[tasks.size() / 2]);
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
    const int64_t tiles =
        count(tile_list(p, sequence, sequence.offset, sequence.offset + sequence.q_len - 1));
    const int64_t heads = heads_of_short_task(p, dtype, rows, tiles);
    const int64_t splits = std::max<int64_t>(1, (tiles + kSplitTiles - 1) / kSplitTiles);
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
  const auto wanted = [&](const Sequence& sequence) { return rows_per_kv_head(p, sequence) > kMostTileRows; };
  run_waves(kernels, p, wanted, kQueryTileRows, [&](const std::vector<WavePart>& parts) {
    std::vector<QueryTask> tasks = query_tasks(p, parts);
    set_rows_ahead(p, dtype, &tasks);
    run_with_scratch(tasks.size(), usual_work(p, tasks), kernels.scratch_bytes(p),
                     [&](int64_t i, void* scratch) { kernels.forward(p, tasks[i], scratch); });
  });
}

}  // namespace lck
