// The sequences of a call, read from its layout's tables. This is the only place that reads their bounds.
#pragma once

#include <cstdint>

#include "params.h"

namespace lck {

// The layout as given by the caller. A table that was not given is null; tables are in the memory of the
// device that runs the kernel.
struct LayoutTables {
  int64_t batch;                // of the tensors
  int64_t num_sequences;        // batch, or the number of segments of packed input
  const int64_t* cu_seqlens_q;  // (num_sequences + 1), packed input; valid bounds
  const int64_t* cu_seqlens_k;
  bool has_offset;
  int64_t offset;                // with has_offset and no table
  const int64_t* offsets;        // (num_sequences), or (1) with offset_step 0
  int64_t offset_step;           // 0: one offset for all
  const int64_t* kv_start;       // (num_sequences)
  const int64_t* kv_end;         // (num_sequences)
  int64_t chunk_origin;          // without a table
  const int64_t* chunk_origins;  // (num_sequences), or (1) with chunk_origin_step 0
  int64_t chunk_origin_step;
  const int64_t* segment_ids;  // (batch, seqlen_k)
};

// Clamps a position: beyond +-2^60 the visible keys no longer change, and the window's arithmetic cannot
// overflow.
LCK_HOST_DEVICE static inline int64_t bounded(int64_t position) {
  constexpr int64_t kFar = int64_t{1} << 60;
  return smaller(larger(position, -kFar), kFar);
}

// Rows [begin, end) of a sequence, clamped to [0, total).
LCK_HOST_DEVICE static inline Span rows_of_sequence(const int64_t* cu_seqlens, int64_t t, int64_t total) {
  if (!cu_seqlens) return {0, total};
  const int64_t begin = smaller(larger(cu_seqlens[t], 0), total);
  return {begin, smaller(larger(cu_seqlens[t + 1], begin), total)};
}

// Sequence t of tensors with seqlen_q and seqlen_k rows; `chunk` is the window's.
LCK_HOST_DEVICE static inline Sequence sequence_at(const LayoutTables& layout, int64_t seqlen_q,
                                                   int64_t seqlen_k, int64_t chunk, int64_t t) {
  const Span queries = rows_of_sequence(layout.cu_seqlens_q, t, seqlen_q);
  const Span keys = rows_of_sequence(layout.cu_seqlens_k, t, seqlen_k);
  const int64_t q_len = queries.end - queries.begin, num_keys = keys.end - keys.begin;
  Sequence sequence{};
  sequence.batch = layout.cu_seqlens_q ? 0 : t;
  sequence.index = t;
  sequence.q_begin = queries.begin, sequence.q_len = q_len, sequence.k_begin = keys.begin;
  sequence.offset = layout.offsets      ? bounded(layout.offsets[t * layout.offset_step])
                    : layout.has_offset ? layout.offset
                                        : num_keys - q_len;
  sequence.bounds.num_keys = num_keys;
  sequence.bounds.kv_start = layout.kv_start ? bounded(layout.kv_start[t]) : 0;
  sequence.bounds.kv_end = layout.kv_end ? bounded(layout.kv_end[t]) : num_keys;
  const int64_t origin =
      layout.chunk_origins ? layout.chunk_origins[t * layout.chunk_origin_step] : layout.chunk_origin;
  sequence.bounds.chunk_origin = chunk ? origin % chunk : 0;  // the same chunks, without overflow
  return sequence;
}

}  // namespace lck
