// Plain structs that carry a problem from the host to a kernel; each pointer says its shape.
#pragma once

#include <cstdint>

namespace lck {

// Output positions of one tile; tile i has positions [i * kTileLen, (i + 1) * kTileLen). As in
// lckernels/plan.py.
inline constexpr int64_t kTileLen = 64;

enum class DType { kFloat32, kBFloat16, kFloat16, kFloat64 };

// One row of Plan.segments: columns [col, col + length) of chunk `row` land on [start, start + length).
struct Segment {
  int32_t row, col, start, length;
  int32_t keep_start, keep_end;            // relative to the segment
  int32_t starts_document, ends_document;  // 0 or 1
  int32_t fill_start, fill_end;            // columns this segment owns when whole rows are written
};

// How a position is shared among the chunks that cover it. kAdd adds them up, unweighted.
enum class WeightMode { kUniform, kTriangular, kHann, kCrop, kExplicit, kAdd };

struct OverlapParams {
  void* chunks;             // (num_chunks, chunk_len, dim), last dim contiguous
  void* sequence;           // (total_len, dim), last dim contiguous
  const void* weights;      // (num_chunks, chunk_len), fp32 (fp64 for fp64 chunks); null unless kExplicit
  void* dweights;           // (num_chunks, chunk_len), like weights; null but in the weights' gradient
  const Segment* segments;  // (num_segments), sorted by start
  const int32_t* tile_segments;  // (num_tiles, 2), range of segments that may touch a tile
  int64_t num_segments, num_tiles, num_chunks, chunk_len, total_len, dim;
  int64_t most_segments;                                 // in the longest range of tile_segments
  int64_t chunk_stride, column_stride, position_stride;  // in elements
  WeightMode mode;
  bool stream_out;  // write past the caches: the output is large and its pages are already there
};

}  // namespace lck
