// The tasks of chunked attention.
#include "cpu/chunked_run.h"

#include <algorithm>

#include "cpu/key_waves.h"
#include "cpu/workspace.h"

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
  std::vector<int64_t> tiles(p.num_chunks, (p.num_extra + kTile - 1) / kTile);
  for (const Segment& s : tables->segments) tiles[s.row] += (s.length + kTile - 1) / kTile;
  p.most_tiles = tiles.empty() ? 0 : *std::max_element(tiles.begin(), tiles.end());
  std::vector<int64_t> place(tables->chunk_bounds.begin(), tables->chunk_bounds.end() - 1);
  tables->chunk_segments.resize(tables->segments.size());
  for (size_t i = 0; i < tables->segments.size(); ++i) {
    tables->chunk_segments[place[tables->segments[i].row]++] = static_cast<int32_t>(i);
  }
  p.segments = tables->segments.data();
  p.num_segments = tables->segments.size();
  p.chunk_bounds = tables->chunk_bounds.data();
  p.chunk_segments = tables->chunk_segments.data();
  LayoutTables layout{};
  layout.batch = layout.num_texts = 1;
  build_tables(layout, &tables->sequence, &p.sequence);
  p.sequence.window = p.extra.window = {-1, -1, 0, 0};
}

namespace {

using Tasks = std::vector<ChunkedTask>;

// Products of the backward, where the forward has two.
constexpr int64_t kGradProducts = 5;

// Chunks with fewer tasks are split, as far as a task has so many rows. None of this depends on the number of
// threads.
constexpr int64_t kFewestTasks = 32, kLeastSplitRows = 4 * kTile;

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

// Products of a usual task of so many rows.
int64_t rows_work(const ChunkedParams& p, int64_t rows) {
  return rows * (p.chunk_len + p.num_extra) * (p.sequence.head_dim + p.sequence.head_dim_v);
}

}  // namespace

void run_chunked_forward(Isa isa, DType dtype, const ChunkedParams& p) {
  const ChunkedPasses& passes = chunked_passes(isa, dtype);
  const int64_t group = p.sequence.num_heads / p.sequence.num_kv_heads;
  run_waves(
      attention_forward(isa, dtype), p.sequence, [](const Text&) { return true; }, p.sequence.seqlen_q,
      [&](const std::vector<WavePart>& parts) {
        const int64_t kv_head = parts[0].kv_head, count = parts.size();
        Tasks tasks;
        for (const bool of_extra : {false, true})
          add_tasks(p, of_extra, kv_head * group, (kv_head + count) * group, &tasks);
        run_with_scratch(tasks.size(), rows_work(p, kQueryTileRows), passes.output_scratch_bytes(p),
                         [&](int64_t i, void* scratch) {
                           passes.outputs(p, tasks[i], parts[tasks[i].head / group - kv_head].tiles, scratch);
                         });
      });
}

namespace {

template <typename A>
void sum_heads(const ChunkedParams& p, int64_t chunk, A* row_dots) {
  const A* dots = static_cast<const A*>(p.dots);
  const int64_t width = p.chunk_len + p.num_extra;
  for (int64_t i = p.chunk_bounds[chunk]; i < p.chunk_bounds[chunk + 1]; ++i) {
    const Segment& s = p.segments[p.chunk_segments[i]];
    for (int64_t column = s.col; column < s.col + s.length; ++column) {
      A total = 0;
      for (int64_t head = 0; head < p.sequence.num_heads; ++head) {
        total += dots[(head * p.num_chunks + chunk) * width + column];
      }
      row_dots[chunk * p.chunk_len + column] = total;
    }
  }
}

}  // namespace

void run_chunked_backward(Isa isa, DType dtype, ChunkedParams p, void* row_dots) {
  const ChunkedPasses& passes = chunked_passes(isa, dtype);
  const int64_t heads = p.sequence.num_heads, kv_heads = p.sequence.num_kv_heads, chunks = p.num_chunks;
  const int64_t width = p.chunk_len + p.num_extra;
  const Workspace dots = make_workspace(row_dots ? heads * chunks * width * acc_bytes(dtype) : 0);
  p.dots = dots.get();
  p.num_splits = std::clamp<int64_t>(kFewestTasks / std::max<int64_t>(kv_heads * chunks, 1), 1,
                                     std::max<int64_t>(p.chunk_len / kLeastSplitRows, 1));

  // As many kv heads at a time as the parts take the memory of all keys and values.
  const int64_t head_bytes = chunks * passes.parts_bytes(p), scratch_bytes = passes.gradient_scratch_bytes(p);
  const int64_t key_bytes =
      p.sequence.seqlen_k * kv_heads * (p.sequence.head_dim + p.sequence.head_dim_v) * acc_bytes(dtype);
  const int64_t step = std::clamp<int64_t>(key_bytes / std::max<int64_t>(head_bytes, 1), 1, kv_heads);
  const Workspace parts = make_workspace(step * head_bytes);
  for (int64_t first = 0; first < kv_heads; first += step) {
    const int64_t stop = std::min(first + step, kv_heads);
    const auto parts_of = [&](int64_t kv_head) { return parts.get() + (kv_head - first) * head_bytes; };
    std::vector<ChunkGradTask> tasks;
    for (int64_t i = 0; i < (stop - first) * chunks * p.num_splits; ++i) {
      const int64_t chunk = i / p.num_splits % chunks, kv_head = first + i / p.num_splits / chunks;
      tasks.push_back({chunk, kv_head, i % p.num_splits, parts_of(kv_head) + chunk * passes.parts_bytes(p)});
    }
    const int64_t chunk_work = kGradProducts * heads / kv_heads * rows_work(p, width) / (2 * p.num_splits);
    run_with_scratch(tasks.size(), chunk_work, scratch_bytes,
                     [&](int64_t i, void* scratch) { passes.gradients(p, tasks[i], scratch); });
    Tasks merges;
    for (const bool of_extra : {false, true}) add_tasks(p, of_extra, first, stop, &merges);
    run_with_scratch(merges.size(), kQueryTileRows * 4 * p.sequence.head_dim, scratch_bytes,
                     [&](int64_t i, void* scratch) {
                       passes.merge_gradients(p, merges[i], parts_of(merges[i].head), scratch);
                     });
  }
  if (!row_dots || chunks == 0) return;
  std::fill_n(static_cast<char*>(row_dots), chunks * p.chunk_len * acc_bytes(dtype), char{0});
  run_with_scratch(chunks, p.chunk_len * heads, 0, [&](int64_t chunk, void*) {
    if (dtype == DType::kFloat64) {
      sum_heads(p, chunk, static_cast<double*>(row_dots));
    } else {
      sum_heads(p, chunk, static_cast<float*>(row_dots));
    }
  });
}

}  // namespace lck
