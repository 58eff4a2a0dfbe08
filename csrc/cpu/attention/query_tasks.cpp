#include "cpu/attention/query_tasks.h"

#include <algorithm>

namespace lck {

namespace {

// Keys and values of at least so many bytes are prefetched; less stays in the second cache.
constexpr int64_t kLeastBytesAhead = int64_t{1} << 20;

QueryTask task_of(const QueryPart& part, int64_t first, int64_t rows) {
  return {part.sequence, part.kv_head, 1, first, rows, part.tiles, 0, 1, nullptr, nullptr, {}};
}

}  // namespace

void add_query_tasks(const AttentionParams& p, const QueryPart& part, std::vector<QueryTask>* tasks) {
  const Sequence& sequence = p.sequences[part.sequence];
  const int64_t rows = rows_per_kv_head(p, sequence);
  if (rows <= kMostTileRows) return tasks->push_back(task_of(part, 0, rows));
  const bool across = across_heads(sequence);
  const int64_t stride = across ? rows : sequence.q_len;
  const Span queries = across ? Span{0, rows} : part.queries;
  for (int64_t head_row = 0; head_row < rows; head_row += stride) {
    for (int64_t first = queries.begin; first < queries.end; first += kQueryTileRows) {
      tasks->push_back(task_of(part, head_row + first, std::min(kQueryTileRows, queries.end - first)));
    }
  }
}

void add_query_steps(const AttentionParams& p, const QueryPart& part, std::vector<QueryTask>* tasks) {
  const Sequence& sequence = p.sequences[part.sequence];
  if (across_heads(sequence)) return add_query_tasks(p, part, tasks);
  QueryPart step = part;
  for (int64_t first = part.queries.begin; first < part.queries.end; first += kQueryTileRows) {
    step.queries = {first, std::min(first + kQueryTileRows, part.queries.end)};
    add_query_tasks(p, step, tasks);
  }
}

RowsAhead rows_ahead(DType dtype, const HeadsTensor& x, int64_t batch, int64_t row, int64_t head,
                     int64_t rows, int64_t elements) {
  const int64_t size = element_bytes(dtype);
  const int64_t first = batch * x.batch_stride + row * x.row_stride + head * x.head_stride;
  return {static_cast<const std::byte*>(x.data) + first * size, rows, x.row_stride * size, elements * size};
}

void set_rows_ahead(const AttentionParams& p, DType dtype, int64_t step, std::vector<QueryTask>* tasks) {
  const int64_t number = tasks->size();
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

void set_first_keys_ahead(const AttentionParams& p, DType dtype, int64_t step,
                          std::vector<QueryTask>* tasks) {
  const int64_t row_bytes = p.num_kv_heads * (p.head_dim + p.head_dim_v) * element_bytes(dtype);
  if (p.batch * p.seqlen_k * row_bytes < kLeastBytesAhead) return;
  const int64_t number = tasks->size();
  for (int64_t i = step; i < number; ++i) {
    const QueryTask& next = (*tasks)[i];
    const Sequence& sequence = p.sequences[next.sequence];
    if (next.num_splits > 1 || reads_in_place(p, next.rows)) continue;
    const TileList tiles = tiles_of_queries(p, sequence, {0, sequence.q_len});
    if (count(tiles) == 0) continue;
    const int64_t key = tile_at(tiles, 0) * kTile;
    const int64_t keys = std::min<int64_t>(kTile, sequence.bounds.num_keys - key);
    const auto rows = [&](const HeadsTensor& x, int64_t dim) {
      const bool contiguous = next.heads == 1 || x.head_stride == dim;
      return rows_ahead(dtype, x, sequence.batch, sequence.k_begin + key, next.kv_head, contiguous ? keys : 0,
                        next.heads * dim);
    };
    (*tasks)[i - step].next[2] = rows(p.k, p.head_dim);
    (*tasks)[i - step].next[3] = rows(p.v, p.head_dim_v);
  }
}

int64_t usual_work(const AttentionParams& p, const std::vector<QueryTask>& tasks) {
  if (tasks.empty()) return 0;
  const QueryTask& task = tasks[tasks.size() / 2];
  const int64_t tiles = (count(tiles_of_task(p, task)) + task.num_splits - 1) / task.num_splits;
  return task.heads * task.rows * tiles * kTile * (p.head_dim + p.head_dim_v);
}

}  // namespace lck
