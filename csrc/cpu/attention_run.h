// Windowed attention as tasks: texts and segments from the layout's tables, workspaces, passes. No torch.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/attention.h"
#include "host/cpu_features.h"
#include "params.h"

namespace lck {

// The layout as the caller has it; each table is null where it was not given.
struct LayoutTables {
  int64_t batch;                // of the tensors
  int64_t num_texts;            // batch, or the number of segments of packed input
  const int64_t* cu_seqlens_q;  // (num_texts + 1), packed input; valid bounds
  const int64_t* cu_seqlens_k;
  bool has_offset;
  int64_t offset;                // with has_offset and no table
  const int64_t* offsets;        // (num_texts), or (1) with offset_step 0
  int64_t offset_step;           // 0: one offset for all
  const int64_t* kv_start;       // (num_texts)
  const int64_t* kv_end;         // (num_texts)
  int64_t chunk_origin;          // without a table
  const int64_t* chunk_origins;  // (num_texts), or (1) with chunk_origin_step 0
  int64_t chunk_origin_step;
  const int64_t* segment_ids;  // (batch, seqlen_k)
};

// What AttentionParams points to beside the tensors.
struct AttentionTables {
  std::vector<Text> texts;
  std::vector<int32_t> segments;
  std::vector<Span> segment_spans;
};

// Fills texts and segments of params, which has the sizes and the window already.
void build_tables(const LayoutTables& layout, AttentionTables* tables, AttentionParams* params);

// out and lse. Each task is the same whatever runs it, so results do not depend on the number of threads.
void run_attention_forward(Isa isa, DType dtype, const AttentionParams& params);

// dq, dk, dv, delta, and dbias, dsink where not null; all are overwritten.
// dbias: (num_heads, bias_len), dsink: (num_heads), fp32 (fp64 for fp64).
void run_attention_backward(Isa isa, DType dtype, AttentionParams params, void* dbias, void* dsink);

}  // namespace lck
