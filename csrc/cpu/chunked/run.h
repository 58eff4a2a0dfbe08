// Chunked attention as tasks. No torch.
#pragma once

#include <vector>

#include "cpu/attention/run.h"
#include "cpu/chunked/kernels.h"

namespace lck {

// What ChunkedParams points to beside the tensors.
struct ChunkedTables {
  AttentionTables sequence;
  std::vector<Segment> segments;
  std::vector<int64_t> chunk_bounds;
  std::vector<int32_t> chunk_segments;
  std::vector<int64_t> chunk_rows, segment_rows;
};

// Fills the tables of params, whose sizes are set, from a plan's segments; what lies outside is cut off.
void build_chunked_tables(const Segment* segments, int64_t num_segments, ChunkedTables* tables,
                          ChunkedParams* params);

// sequence.out and extra.out.
void run_chunked_forward(Isa isa, DType dtype, const ChunkedParams& params);

// dq, dk, dv of sequence and extra; row_dots (num_chunks, chunk_len), if not null: <dout, out of the chunk>
// over heads and dims, fp32 (fp64 for fp64), 0 outside segments.
void run_chunked_backward(Isa isa, DType dtype, ChunkedParams params, void* row_dots);

}  // namespace lck
