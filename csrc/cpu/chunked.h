// The passes of chunked attention: each works on one task, no torch, no threads.
#pragma once

#include <cstdint>

#include "cpu/attention.h"

namespace lck {

// Rows [first, first + count) of one head (of one kv head in key_grads): positions of the sequence, or a
// chunk's extra rows where chunk >= 0. At most kQueryTileRows rows, kKeyTileRows in key_grads.
struct ChunkedTask {
  int64_t chunk, head, first, count;
};

struct ChunkedPasses {
  // packed: key tiles of the head's kv head, as AttentionForward.pack_keys makes them. states: instead of
  // outputs, the lse and dots that the backward needs.
  void (*outputs)(const ChunkedParams&, const ChunkedTask&, bool states, const PackedTiles& packed,
                  void* scratch);
  // dq; packed for the backward.
  void (*query_grads)(const ChunkedParams&, const ChunkedTask&, const PackedTiles& packed, void* scratch);
  void (*key_grads)(const ChunkedParams&, const ChunkedTask&, void* scratch);  // dk and dv
  int64_t (*scratch_bytes)(const ChunkedParams&);
};

const ChunkedPasses& chunked_passes(Isa isa, DType dtype);

}  // namespace lck
