// The kernels of chunked attention, compiled once per instruction set. A kernel runs one task, without torch
// and threads.
#pragma once

#include <cstdint>

#include "cpu/attention/kernels.h"

namespace lck {

// Rows [first, first + count) of one head (kv head in merge_gradients): positions of the sequence, or a
// chunk's extra rows where chunk >= 0. At most kQueryTileRows rows.
struct ChunkedTask {
  int64_t chunk, head, first, count;
};

// The gradients of one chunk and kv head, or of one of num_splits parts of its queries; parts: of the kv
// head.
struct ChunkGradTask {
  int64_t chunk, kv_head, split;
  std::byte* parts;
};

struct ChunkedKernels {
  // packed: key tiles of the head's kv head, from AttentionForwardKernels.pack_keys.
  void (*outputs)(const ChunkedParams&, const ChunkedTask&, const PackedTiles& packed, void* scratch);
  void (*gradients)(const ChunkedParams&, const ChunkGradTask&, void* scratch);
  // dq, dk and dv of rows: sums of the kv head's parts.
  void (*merge_gradients)(const ChunkedParams&, const ChunkedTask&, std::byte* parts, void* scratch);
  int64_t (*parts_bytes)(const ChunkedParams&);  // of one kv head
  int64_t (*output_scratch_bytes)(const ChunkedParams&);
  int64_t (*gradient_scratch_bytes)(const ChunkedParams&);
  int64_t (*merge_scratch_bytes)(const ChunkedParams&);
};

const ChunkedKernels& chunked_kernels(Isa isa, DType dtype);

}  // namespace lck
