// The kernels of windowed attention, compiled once per instruction set. A kernel runs one task, without torch
// and threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/attention/tiles.h"
#include "cpu/common/event_counts.h"
#include "host/cpu_features.h"
#include "params.h"

namespace lck {

// Rows (queries times heads that share a kv head) of one forward task, where there is more than one
// task.
inline constexpr int64_t kQueryTileRows = 48;
// A sequence with at most this many rows for a kv head is one task, which packs its key tiles itself.
inline constexpr int64_t kMostTileRows = 192;
// Whether query tasks of a sequence may contain rows of several heads, so that a task has all queries.
static inline bool across_heads(const Sequence& sequence) {
  return sequence.q_len < kMostTileRows;
}
// The most key tiles of one task of a short sequence; with more, the keys are split and merged by lse.
inline constexpr int64_t kSplitTiles = 16;

// Rows of a tensor that are prefetched: `bytes` of each.
struct RowsAhead {
  const std::byte* first;
  int64_t rows, stride, bytes;
};

// Rows [first_row, first_row + rows) of the sequence's queries for each of the kv heads [kv_head, kv_head +
// heads).
struct QueryTask {
  int64_t sequence, kv_head, heads, first_row, rows;
  PackedTiles packed;         // the kv head's key tiles; without data the task packs them
  int64_t split, num_splits;  // part of its key tiles; 0 of 1 for all
  void* partial_out;          // (num_splits, heads, rows, head_dim_v), fp32 (fp64), if num_splits > 1
  void* partial_lse;          // (num_splits, heads, rows), natural log
  RowsAhead next[4];          // prefetched meanwhile: rows of q, out, k and v
};
// The key tiles that a task's rows see.
static inline TileList tiles_of_task(const AttentionParams& p, const QueryTask& task) {
  const Span positions = row_positions(p.sequences[task.sequence], task.first_row, task.rows);
  return tile_list(p, p.sequences[task.sequence], positions.begin, positions.end - 1);
}
// Keys of a sequence, and the query tiles of which some query may see one of them.
struct Strip {
  Span keys, tiles;
  bool rising;  // tiles in rising order: a later strip ends at an earlier tile
};
// A query tile of a sequence: the number of strips that see it and, with several, the index of its dq among
// the kv head's sums.
struct QueryTile {
  int64_t strips, sum;
};
// dk and dv of a strip's keys for a kv head, and these keys' contribution to dq.
struct StripTask {
  int64_t sequence, kv_head;
  Strip strip;
  const int32_t* before;         // (tiles of the strip) earlier strips that see the tile
  const QueryTile* query_tiles;  // of the sequence
  // dq of tiles that several strips see, before it has the result's dtype: (sums, heads of the group),
  // dq_sum_bytes each. Strips add to it in their order.
  std::byte* sums;
  EventCounts* events;
  int64_t first_event;  // first of the counts (query tiles, heads of the group)
  int64_t bias_slot;
};

// The tile to prefetch while the key tiles of `heads` kv heads are packed in order.
struct ReadAhead {
  int64_t first_head, heads;
  int64_t n0;  // first key of the next tile; -1: nothing
};
inline constexpr ReadAhead kNoReadAhead{0, 0, -1};

struct AttentionForwardKernels {
  // Packs K and V of one key tile (64 keys) of a kv head.
  void (*pack_keys)(const AttentionParams&, int64_t sequence, int64_t kv_head, int64_t tile, ReadAhead next,
                    void* packed, void* scratch);
  void (*forward)(const AttentionParams&, const QueryTask&, void* scratch);
  // Merges the splits of a task into out and lse.
  void (*merge_splits)(const AttentionParams&, const QueryTask&);
  int64_t (*tile_bytes)(const AttentionParams&);     // of one packed key tile
  int64_t (*scratch_bytes)(const AttentionParams&);  // of any forward kernel, 64-byte aligned
};

struct AttentionBackwardKernels {
  // delta of queries [first, stop) of a row of the batch; must run first.
  void (*delta)(const AttentionParams&, int64_t batch, int64_t first, int64_t stop);
  void (*strip)(const AttentionParams&, const StripTask&, void* scratch);
  // dq = 0 for a query tile that no strip sees.
  void (*zero_dq)(const AttentionParams&, int64_t sequence, int64_t head, int64_t tile);
  int64_t (*dq_sum_bytes)(const AttentionParams&);  // 0: dq itself has the sums
  int64_t (*scratch_bytes)(const AttentionParams&, int64_t strip_tiles);
};

const AttentionForwardKernels& attention_forward_kernels(Isa isa, DType dtype);
const AttentionBackwardKernels& attention_backward_kernels(Isa isa, DType dtype);

}  // namespace lck
