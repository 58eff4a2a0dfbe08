// The tasks of chunked attention.
#include "cpu/chunked/run.h"

#include <algorithm>

#include "cpu/attention/key_waves.h"
#include "cpu/common/workspace.h"

namespace lck {

void build_chunked_tables(const Segment* segments, int64_t num_segments, ChunkedTables* tables,
                          ChunkedParams* params) {
  ChunkedParams& p = *params;
  const int64_t total_len = p.sequence.seqlen_q;
  for (int64_t i = 0; i < num_segments; ++i) {
    Segment s = segments[i];
    if (s.row < 0 || s.row >= p.num_chunks || s.col < 0 || s.col >= p.chunk_len || s.start < 0) continue;
    s.length = static_cast<int32_t>(std::min<int64_t>({s.length, p.chunk_len - s.col, total_len - s.start}));
    if (s.length <= 0) continue;
    p.longest_segment = std::max<int64_t>(p.longest_segment, s.length);
    tables->segments.push_back(s);
  }
  std::stable_sort(tables->segments.begin(), tables->segments.end(),
                   [](const Segment& a, const Segment& b) { return a.start < b.start; });
  tables->chunk_bounds.assign(p.num_chunks + 1, 0);
  for (const Segment& s : tables->segments) ++tables->chunk_bounds[s.row + 1];
  for (int64_t c = 0; c < p.num_chunks; ++c) tables->chunk_bounds[c + 1] += tables->chunk_bounds[c];
  tables->chunk_segments.resize(tables->segments.size());
  std::vector<int64_t> next(tables->chunk_bounds.begin(), tables->chunk_bounds.end() - 1);
  for (size_t i = 0; i < tables->segments.size(); ++i) {
    tables->chunk_segments[next[tables->segments[i].row]++] = static_cast<int32_t>(i);
  }
  tables->segment_rows.resize(tables->segments.size());
  int64_t rows = 0;
  for (int64_t c = 0; c < p.num_chunks; ++c) {
    const int64_t first = rows;
    int64_t tiles = (p.num_extra + kTile - 1) / kTile;
    tables->chunk_rows.push_back(first);
    for (int64_t i = tables->chunk_bounds[c]; i < tables->chunk_bounds[c + 1]; ++i) {
      const int32_t number = tables->chunk_segments[i];
      const int64_t length = tables->segments[number].length;
      tables->segment_rows[number] = rows;
      rows += length, tiles += (length + kTile - 1) / kTile;
    }
    rows += p.num_extra;
    p.most_tiles = std::max(p.most_tiles, tiles);
    p.most_rows = std::max(p.most_rows, rows - first);
  }
  tables->chunk_rows.push_back(rows);
  p.segments = tables->segments.data();
  p.num_segments = tables->segments.size();
  p.chunk_bounds = tables->chunk_bounds.data();
  p.chunk_segments = tables->chunk_segments.data();
  p.chunk_rows = tables->chunk_rows.data();
  p.segment_rows = tables->segment_rows.data();
  LayoutTables layout{};
  layout.batch = layout.num_sequences = 1;
  build_tables(layout, &tables->sequence, &p.sequence);
  p.sequence.window = p.extra.window = {-1, -1, 0, 0};
}

namespace {

using Tasks = std::vector<ChunkedTask>;

// The fewest tasks of the backward, if splitting each chunk into at most kMostSplits parts of at least
// kLeastSplitRows rows permits. Tasks do not depend on the number of threads.
constexpr int64_t kFewestTasks = 32, kMostSplits = 8, kLeastSplitRows = 4 * kTile;

// Rows of the sequence (chunk -1) or of every chunk's extra rows for heads [first_head, stop_head).
void add_tasks(const ChunkedParams& p, bool of_extra, int64_t first_head, int64_t stop_head, Tasks* tasks) {
  constexpr int64_t step = kQueryTileRows;
  const int64_t rows = of_extra ? p.num_extra : p.sequence.seqlen_q;
  for (int64_t head = first_head; head < stop_head; ++head) {
    for (int64_t chunk = of_extra ? 0 : -1; chunk < (of_extra ? p.num_chunks : 0); ++chunk) {
      for (int64_t first = 0; first < rows; first += step) {
        tasks->push_back({chunk, head, first, std::min(step, rows - first)});
      }
    }
  }
}

// Products of an average task of `rows` rows.
int64_t rows_work(const ChunkedParams& p, int64_t rows) {
  return rows * (p.chunk_len + p.num_extra) * (p.sequence.head_dim + p.sequence.head_dim_v);
}

}  // namespace

void run_chunked_forward(Isa isa, DType dtype, const ChunkedParams& p) {
  const ChunkedKernels& kernels = chunked_kernels(isa, dtype);
  const int64_t group = p.sequence.num_heads / p.sequence.num_kv_heads;
  run_waves(
      attention_forward_kernels(isa, dtype), p.sequence, [](const Sequence&) { return true; },
      p.sequence.seqlen_q,
      [&](const std::vector<QueryPart>& parts) {
        const int64_t kv_head = parts[0].kv_head, count = parts.size();
        Tasks tasks;
        for (const bool of_extra : {false, true})
          add_tasks(p, of_extra, kv_head * group, (kv_head + count) * group, &tasks);
        run_with_scratch(tasks.size(), rows_work(p, kQueryTileRows), kernels.output_scratch_bytes(p),
                         [&](int64_t i, void* scratch) {
                           kernels.outputs(p, tasks[i], parts[tasks[i].head / group - kv_head].tiles,
                                           scratch);
                         });
      });
}

namespace {

template <typename A>
void sum_heads(const ChunkedParams& p, int64_t chunk, A* row_dots) {
  const A* dots = static_cast<const A*>(p.dots);
  const int64_t rows = p.chunk_rows[p.num_chunks];
  for (int64_t i = p.chunk_bounds[chunk]; i < p.chunk_bounds[chunk + 1]; ++i) {
    const Segment& s = p.segments[p.chunk_segments[i]];
    const int64_t first = p.segment_rows[p.chunk_segments[i]];
    for (int64_t u = 0; u < s.length; ++u) {
      A total = 0;
      for (int64_t head = 0; head < p.sequence.num_heads; ++head) total += dots[head * rows + first + u];
      row_dots[chunk * p.chunk_len + s.col + u] = total;
    }
  }
}

// Tasks of a chunk and kv head, each with a part of the queries.
int64_t splits_of(const ChunkedParams& p) {
  const int64_t group = p.sequence.num_heads / p.sequence.num_kv_heads;
  const int64_t tasks = std::max<int64_t>(p.sequence.num_kv_heads * p.num_chunks, 1);
  const int64_t most = std::min(kMostSplits, p.most_rows * group / kLeastSplitRows);
  return std::clamp<int64_t>((kFewestTasks + tasks - 1) / tasks, 1, std::max<int64_t>(most, 1));
}

}  // namespace

void run_chunked_backward(Isa isa, DType dtype, ChunkedParams p, void* row_dots) {
  const ChunkedKernels& kernels = chunked_kernels(isa, dtype);
  const AttentionParams& s = p.sequence;
  const int64_t kv_heads = s.num_kv_heads, group = s.num_heads / kv_heads, chunks = p.num_chunks;
  const Workspace dots = make_workspace(row_dots ? s.num_heads * p.chunk_rows[chunks] * acc_bytes(dtype) : 0);
  p.dots = dots.get();
  p.num_splits = splits_of(p);

  // kv heads per step: as many as have parts of the size of all keys and values, and enough for kFewestTasks.
  const int64_t head_bytes = kernels.parts_bytes(p),
                tasks_of_head = std::max<int64_t>(chunks * p.num_splits, 1);
  const int64_t key_bytes = s.seqlen_k * kv_heads * (s.head_dim + s.head_dim_v) * acc_bytes(dtype);
  const int64_t step =
      std::clamp(std::max(key_bytes / std::max<int64_t>(head_bytes, 1), kFewestTasks / tasks_of_head),
                 int64_t{1}, kv_heads);
  const Workspace parts = make_workspace(step * head_bytes);
  for (int64_t first = 0; first < kv_heads; first += step) {
    const int64_t stop = std::min(first + step, kv_heads);
    const auto parts_of = [&](int64_t kv_head) { return parts.get() + (kv_head - first) * head_bytes; };
    std::vector<ChunkGradTask> tasks;
    for (int64_t i = 0; i < (stop - first) * chunks * p.num_splits; ++i) {
      const int64_t kv_head = first + i / p.num_splits / chunks;
      tasks.push_back({i / p.num_splits % chunks, kv_head, i % p.num_splits, parts_of(kv_head)});
    }
    run_with_scratch(tasks.size(), group * rows_work(p, p.most_rows) / p.num_splits,
                     kernels.gradient_scratch_bytes(p),
                     [&](int64_t i, void* scratch) { kernels.gradients(p, tasks[i], scratch); });
    Tasks merges;
    for (const bool of_extra : {false, true}) add_tasks(p, of_extra, first, stop, &merges);
    run_with_scratch(merges.size(), kQueryTileRows * (group + 2 * p.num_splits) * (s.head_dim + s.head_dim_v),
                     kernels.merge_scratch_bytes(p), [&](int64_t i, void* scratch) {
                       kernels.merge_gradients(p, merges[i], parts_of(merges[i].head), scratch);
                     });
  }
  if (!row_dots || chunks == 0) return;
  std::fill_n(static_cast<char*>(row_dots), chunks * p.chunk_len * acc_bytes(dtype), char{0});
  run_with_scratch(chunks, p.chunk_len * s.num_heads, 0, [&](int64_t chunk, void*) {
    if (dtype == DType::kFloat64) {
      sum_heads(p, chunk, static_cast<double*>(row_dots));
    } else {
      sum_heads(p, chunk, static_cast<float*>(row_dots));
    }
  });
}

}  // namespace lck
