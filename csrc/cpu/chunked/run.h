// Chunked attention on the host side: the plan's tables, workspaces, and tasks for the kernels. No torch.
#pragma once

#include <vector>

#include "cpu/attention/run.h"
#include "cpu/chunked/kernels.h"

namespace lck {

// The tables that ChunkedParams points to.
struct ChunkedTables {
  AttentionTables sequence;
  std::vector<Segment> segments;
  std::vector<int64_t> chunk_bounds;
  std::vector<int32_t> chunk_segments;
  std::vector<int64_t> chunk_rows, segment_rows;
};

// Sets the tables of params, whose sizes must be set, from a plan's segments, clamped to the tensors.
void build_chunked_tables(const Segment* segments, int64_t num_segments, ChunkedTables* tables,
                          ChunkedParams* params);

// Computes sequence.out and extra.out.
void run_chunked_forward(Isa isa, DType dtype, const ChunkedParams& params);

// Computes dq, dk, dv of sequence and extra; row_dots (num_chunks, chunk_len), if not null: <dout, out of the
// chunk> over heads and dims, fp32 (fp64 for fp64), 0 outside segments.
void run_chunked_backward(Isa isa, DType dtype, ChunkedParams params, void* row_dots);

}  // namespace lck
