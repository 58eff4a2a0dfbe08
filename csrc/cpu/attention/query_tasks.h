// Query tasks of the forward of windowed attention: which rows a task has, its work, and what it prefetches.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/attention/kernels.h"

namespace lck {

// Queries [queries.begin, queries.end) of a sequence and one kv head, and where its key tiles are packed.
struct QueryPart {
  int64_t sequence, kv_head;
  Span queries;
  PackedTiles tiles;
};

static inline int64_t rows_per_kv_head(const AttentionParams& p, const Sequence& sequence) {
  return sequence.q_len * (p.num_heads / p.num_kv_heads);
}

// Appends the tasks of a part: head after head. With short sequences a task has rows of several heads; the
// tasks of a sequence do not depend on its parts.
void add_query_tasks(const AttentionParams& p, const QueryPart& part, std::vector<QueryTask>* tasks);

// The same tasks in the order of their queries: all heads of a step before the next.
void add_query_steps(const AttentionParams& p, const QueryPart& part, std::vector<QueryTask>* tasks);

// Rows [row, row + rows) of a head, counted from the tensor's first row, `elements` of each.
RowsAhead rows_ahead(DType dtype, const HeadsTensor& x, int64_t batch, int64_t row, int64_t head,
                     int64_t rows, int64_t elements);

// Each task prefetches queries and outputs of the task `step` later.
void set_rows_ahead(const AttentionParams& p, DType dtype, int64_t step, std::vector<QueryTask>* tasks);

// Each task prefetches the first key tile of the task `step` later, which packs it: of its heads together
// where they are contiguous. Queries and outputs are not: measured, they gain nothing beside keys and values.
void set_first_keys_ahead(const AttentionParams& p, DType dtype, int64_t step, std::vector<QueryTask>* tasks);

// The work of the task in the middle, used for all: an upper bound of its products.
int64_t usual_work(const AttentionParams& p, const std::vector<QueryTask>& tasks);

}  // namespace lck
