// Windowed attention as tasks: sequences and segments from the layout's tables, workspaces, kernels. No
// torch.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/attention/kernels.h"
#include "host/cpu_features.h"
#include "layout.h"
#include "params.h"

namespace lck {

// What AttentionParams points to beside the tensors.
struct AttentionTables {
  std::vector<Sequence> sequences;
  std::vector<int32_t> segments;
  std::vector<Span> segment_spans;
};

// Fills sequences and segments of params, which has the sizes and the window already.
void build_tables(const LayoutTables& layout, AttentionTables* tables, AttentionParams* params);

// out and lse. Each task is the same whatever runs it, so results do not depend on the number of threads.
void run_attention_forward(Isa isa, DType dtype, const AttentionParams& params);

// dq, dk, dv, delta, and dbias, dsink where not null; all are overwritten.
// dbias: (num_heads, bias_len), dsink: (num_heads), fp32 (fp64 for fp64).
void run_attention_backward(Isa isa, DType dtype, AttentionParams params, void* dbias, void* dsink);

}  // namespace lck
