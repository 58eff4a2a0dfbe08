// Plain structs with the arguments of a kernel. The comment of a pointer is its shape.
#pragma once

#include <cstdint>

#include "window.h"

namespace lck {

// Output positions of one tile; tile i has positions [i * kTileLen, (i + 1) * kTileLen). As in
// lckernels/segments.py.
inline constexpr int64_t kTileLen = 64;

enum class DType { kFloat32, kBFloat16, kFloat16, kFloat64 };

inline int64_t element_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}
// Bytes of an accumulator.
inline int64_t acc_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
}

// One row of Plan.segments: columns [col, col + length) of chunk `row` are at positions
// [start, start + length).
struct Segment {
  int32_t row, col, start, length;
  int32_t keep_start, keep_end;            // relative to the segment
  int32_t starts_document, ends_document;  // 0 or 1
  int32_t fill_start, fill_end;            // columns that this segment writes when whole rows are written
};

// Merge weights of the chunks that cover a position. kAdd: the unweighted sum.
enum class WeightMode { kUniform, kTriangular, kHann, kCrop, kExplicit, kAdd };

struct OverlapParams {
  void* chunks;             // (num_chunks, chunk_len, dim), last dim contiguous
  void* sequence;           // (total_len, dim), last dim contiguous
  const void* weights;      // (num_chunks, chunk_len), fp32 (fp64 for fp64 chunks); null unless kExplicit
  void* dweights;           // (num_chunks, chunk_len), like weights; null except in the weights' gradient
  const Segment* segments;  // (num_segments), sorted by start
  const int32_t* tile_segments;  // (num_tiles, 2), range of segments that may touch a tile
  int64_t num_segments, num_tiles, num_chunks, chunk_len, total_len, dim;
  int64_t most_segments;                                 // in the longest range of tile_segments
  int64_t chunk_stride, column_stride, position_stride;  // in elements
  WeightMode mode;
  bool stream_out;  // streaming stores: the output is large and its pages are mapped
};

// A (batch, seqlen, heads, dim) tensor with any strides, in elements; the last dim is contiguous.
struct HeadsTensor {
  const void* data;
  int64_t batch_stride, row_stride, head_stride;
};

// One sequence: a row of the batch, or a segment of packed input, whose rows are [q_begin, q_begin + q_len).
struct Sequence {
  int64_t batch;  // of the tensors; 0 when packed
  int64_t index;  // of the sequence, in dropout's counter
  int64_t q_begin, q_len, k_begin;
  int64_t offset;  // query i is at key position i + offset
  KeyBounds bounds;
};

struct AttentionParams {
  HeadsTensor q, k, v;      // (batch, seqlen_q, num_heads, head_dim), (.., seqlen_k, num_kv_heads, ..)
  HeadsTensor out, dout;    // (batch, seqlen_q, num_heads, head_dim_v); out is contiguous
  HeadsTensor dq, dk, dv;   // like q, k, v, contiguous
  void* lse;                // (batch, num_heads, seqlen_q), fp32 (fp64 for fp64), as all below
  const void* dlse;         // like lse, or null
  void* delta;              // like lse
  const void* rel_bias;     // (num_heads, bias_len), or null
  void* dbias;              // (bias_slots, num_heads, bias_len), or null
  const void* sink_logits;  // (num_heads), or null

  const Sequence* sequences;  // (num_sequences)
  int64_t num_sequences;
  int64_t batch, seqlen_q, seqlen_k, num_heads, num_kv_heads, head_dim, head_dim_v;
  int64_t bias_len, bias_center, bias_slots;

  Window window;
  const uint8_t* kv_mask;     // (batch, seqlen_k), 0 hides a key; or null
  const int32_t* segments;    // (batch, seqlen_k), dense number of each position's segment; or null
  const Span* segment_spans;  // (batch, seqlen_k), first and last + 1 key of the position's segment
  bool scattered;             // some segment is not contiguous: segment numbers must be compared

  double softmax_scale, softcap;  // softcap 0: none
  bool dropout;
  uint32_t dropout_threshold;  // keep where the draw is not below
  double keep_scale;
  uint64_t seed;
};

// States are results of attention over disjoint key sets. lses and their gradients are (batch, num_heads,
// seqlen), fp32 (fp64 for fp64); their row_stride is from query to query.
struct StatesParams {
  const HeadsTensor* outs;   // (num_states), each (batch, seqlen, num_heads, head_dim)
  const HeadsTensor* lses;   // (num_states)
  HeadsTensor out, lse;      // like outs[0] and lses[0]
  HeadsTensor dout, dlse;    // the same; unused in the forward, as all below
  const HeadsTensor* douts;  // like outs
  const HeadsTensor* dlses;  // like lses
  int64_t num_states, batch, seqlen, num_heads, head_dim;
  bool stream_out;  // as in OverlapParams
};

// Attention within overlapping chunks of one sequence, merged by position.
struct ChunkedParams {
  AttentionParams sequence;       // batch 1: the whole sequence
  AttentionParams extra;          // batch num_chunks, seqlen num_extra: extra tokens of each chunk
  const Segment* segments;        // (num_segments), sorted by start, of length > 0
  const int64_t* chunk_bounds;    // (num_chunks + 1), where a chunk's segments begin in chunk_segments
  const int32_t* chunk_segments;  // (num_segments), indices of segments, sorted by chunk
  const int64_t* chunk_rows;      // (num_chunks + 1), first row of a chunk: its segments' rows, then extra
  const int64_t* segment_rows;    // (num_segments), first row of a segment
  const void* merge_weights;      // (num_chunks, chunk_len), normalized, fp32 (fp64)
  int64_t num_segments, longest_segment, num_chunks, chunk_len, num_extra;
  int64_t most_rows, most_tiles;  // of a chunk; a key tile holds rows of one segment
  // Backward.
  void* dots;          // (num_heads, all chunks' rows): <dout, out of the chunk>; or null
  int64_t num_splits;  // tasks of a chunk and kv head
  bool extra_queries;  // the extra rows' outputs have a gradient
};

}  // namespace lck
