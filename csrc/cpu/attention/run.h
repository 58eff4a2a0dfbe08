// Windowed attention on the host side: tables of sequences, workspaces, and tasks for the kernels. No torch.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/attention/kernels.h"
#include "host/cpu_features.h"
#include "layout.h"
#include "params.h"

namespace lck {

// The tables that AttentionParams points to.
struct AttentionTables {
  std::vector<Sequence> sequences;
  std::vector<int32_t> segments;
  std::vector<Span> segment_spans;
};

// Sets sequences and segments of params, whose sizes and window must be set.
void build_tables(const LayoutTables& layout, AttentionTables* tables, AttentionParams* params);

// Computes out and lse. Tasks do not depend on the number of threads, and neither do the results.
void run_attention_forward(Isa isa, DType dtype, const AttentionParams& params);

// Computes dq, dk, dv, delta, and dbias, dsink if not null; all are overwritten.
// dbias: (num_heads, bias_len), dsink: (num_heads), fp32 (fp64 for fp64).
void run_attention_backward(Isa isa, DType dtype, AttentionParams params, void* dbias, void* dsink);

}  // namespace lck
