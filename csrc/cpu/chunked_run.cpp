// The tasks of chunked attention.
#include "cpu/chunked_run.h"

#include <algorithm>
#include <functional>

#include "cpu/attention_tiles.h"
#include "cpu/parallel.h"
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

// Rows of the sequence (chunk -1) or of every chunk's extra rows, `step` at a time.
void add_tasks(const ChunkedParams& p, bool of_extra, int64_t heads, int64_t step, Tasks* tasks) {
  const int64_t rows = of_extra ? p.num_extra : p.sequence.seqlen_q;
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t chunk = of_extra ? 0 : -1; chunk < (of_extra ? p.num_chunks : 0); ++chunk) {
      for (int64_t first = 0; first < rows; first += step) {
        tasks->push_back({chunk, head, first, std::min(step, rows - first)});
      }
    }
  }
}

void run(const Tasks& tasks, int64_t scratch_bytes,
         const std::function<void(const ChunkedTask&, void*)>& body) {
  if (tasks.empty()) return;
  run_tasks(tasks.size(), [&](const NextTask& next) {
    const Workspace scratch = make_workspace(scratch_bytes);
    for (int64_t i; (i = next()) >= 0;) body(tasks[i], scratch.get());
  });
}

}  // namespace

void run_chunked_forward(Isa isa, DType dtype, const ChunkedParams& p) {
  const ChunkedPasses& passes = chunked_passes(isa, dtype);
  const Workspace packed = pack_all_keys(isa, dtype, p.sequence, false);
  Tasks tasks;
  add_tasks(p, false, p.sequence.num_heads, kQueryTileRows, &tasks);
  add_tasks(p, true, p.sequence.num_heads, kQueryTileRows, &tasks);
  run(tasks, passes.scratch_bytes(p),
      [&](const ChunkedTask& task, void* scratch) { passes.outputs(p, task, false, packed.get(), scratch); });
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
  const bool fp64 = dtype == DType::kFloat64;
  const int64_t acc_bytes = fp64 ? sizeof(double) : sizeof(float);
  const int64_t heads = p.sequence.num_heads, kv_heads = p.sequence.num_kv_heads;
  const int64_t scratch_bytes = passes.scratch_bytes(p);
  const int64_t state_bytes = heads * p.num_chunks * (p.chunk_len + p.num_extra) * acc_bytes;
  const Workspace lse = make_workspace(state_bytes), dots = make_workspace(state_bytes);
  p.lse = lse.get(), p.dots = dots.get(), p.all_rows = row_dots != nullptr;
  Tasks rows, keys;
  add_tasks(p, false, heads, kQueryTileRows, &rows);
  if (p.extra_queries) add_tasks(p, true, heads, kQueryTileRows, &rows);
  add_tasks(p, false, kv_heads, kKeyTileRows, &keys);
  add_tasks(p, true, kv_heads, kKeyTileRows, &keys);
  {
    const Workspace packed = pack_all_keys(isa, dtype, p.sequence, false);
    run(rows, scratch_bytes, [&](const ChunkedTask& task, void* scratch) {
      passes.outputs(p, task, true, packed.get(), scratch);
    });
  }
  {
    const Workspace packed = pack_all_keys(isa, dtype, p.sequence, true);
    run(rows, scratch_bytes,
        [&](const ChunkedTask& task, void* scratch) { passes.query_grads(p, task, packed.get(), scratch); });
  }
  run(keys, scratch_bytes,
      [&](const ChunkedTask& task, void* scratch) { passes.key_grads(p, task, scratch); });
  if (!row_dots || p.num_chunks == 0) return;
  std::fill_n(static_cast<char*>(row_dots), p.num_chunks * p.chunk_len * acc_bytes, char{0});
  run_tasks(p.num_chunks, [&](const NextTask& next) {
    for (int64_t chunk; (chunk = next()) >= 0;) {
      if (fp64) {
        sum_heads(p, chunk, static_cast<double*>(row_dots));
      } else {
        sum_heads(p, chunk, static_cast<float*>(row_dots));
      }
    }
  });
}

}  // namespace lck
