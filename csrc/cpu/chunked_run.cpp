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

// Rows of the sequence (chunk -1) or of every chunk's extra rows for heads [first_head, stop_head), `step` at
// a time.
void add_tasks(const ChunkedParams& p, bool of_extra, int64_t first_head, int64_t stop_head, int64_t step,
               Tasks* tasks) {
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

// Runs body(task, the kv head's key tiles, scratch) for all rows of the sequence and, if wanted, the extra
// rows.
template <typename Body>
void run_rows(Isa isa, DType dtype, const ChunkedParams& p, bool backward, bool extra_rows,
              const Body& body) {
  const int64_t group = p.sequence.num_heads / p.sequence.num_kv_heads;
  run_waves(
      attention_forward(isa, dtype), p.sequence, [](const Text&) { return true; }, backward,
      p.sequence.seqlen_q,
      [&](const std::vector<WavePart>& parts) {
        const int64_t kv_head = parts[0].kv_head, count = parts.size();
        Tasks tasks;
        add_tasks(p, false, kv_head * group, (kv_head + count) * group, kQueryTileRows, &tasks);
        if (extra_rows)
          add_tasks(p, true, kv_head * group, (kv_head + count) * group, kQueryTileRows, &tasks);
        run_with_scratch(tasks.size(), rows_work(p, kQueryTileRows),
                         chunked_passes(isa, dtype).scratch_bytes(p), [&](int64_t i, void* scratch) {
                           body(tasks[i], parts[tasks[i].head / group - kv_head].tiles, scratch);
                         });
      });
}

}  // namespace

void run_chunked_forward(Isa isa, DType dtype, const ChunkedParams& p) {
  const ChunkedPasses& passes = chunked_passes(isa, dtype);
  run_rows(isa, dtype, p, false, true,
           [&](const ChunkedTask& task, const PackedTiles& packed, void* scratch) {
             passes.outputs(p, task, false, packed, scratch);
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
  const bool fp64 = dtype == DType::kFloat64;
  const int64_t heads = p.sequence.num_heads, kv_heads = p.sequence.num_kv_heads;
  const int64_t state_bytes = heads * p.num_chunks * (p.chunk_len + p.num_extra) * acc_bytes(dtype);
  const Workspace lse = make_workspace(state_bytes), dots = make_workspace(state_bytes);
  p.lse = lse.get(), p.dots = dots.get(), p.all_rows = row_dots != nullptr;
  run_rows(isa, dtype, p, false, p.extra_queries,
           [&](const ChunkedTask& task, const PackedTiles& packed, void* scratch) {
             passes.outputs(p, task, true, packed, scratch);
           });
  run_rows(isa, dtype, p, true, p.extra_queries,
           [&](const ChunkedTask& task, const PackedTiles& packed, void* scratch) {
             passes.query_grads(p, task, packed, scratch);
           });
  Tasks keys;
  add_tasks(p, false, 0, kv_heads, kKeyTileRows, &keys);
  add_tasks(p, true, 0, kv_heads, kKeyTileRows, &keys);
  run_with_scratch(keys.size(), rows_work(p, kKeyTileRows), passes.scratch_bytes(p),
                   [&](int64_t i, void* scratch) { passes.key_grads(p, keys[i], scratch); });
  if (!row_dots || p.num_chunks == 0) return;
  std::fill_n(static_cast<char*>(row_dots), p.num_chunks * p.chunk_len * acc_bytes(dtype), char{0});
  run_with_scratch(p.num_chunks, p.chunk_len * p.sequence.num_heads, 0, [&](int64_t chunk, void*) {
    if (fp64) {
      sum_heads(p, chunk, static_cast<double*>(row_dots));
    } else {
      sum_heads(p, chunk, static_cast<float*>(row_dots));
    }
  });
}

}  // namespace lck
