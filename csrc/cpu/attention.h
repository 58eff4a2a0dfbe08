// The passes of windowed attention: each works on one task, no torch, no threads.
#pragma once

#include <cstdint>

#include "host/cpu_features.h"
#include "params.h"

namespace lck {

// Rows (queries times heads that share a kv head) of one forward or dq task, where there is more than one
// task.
inline constexpr int64_t kQueryTileRows = 48;
// A text with no more rows than this for a kv head is one task, whose key tiles are packed as they come.
inline constexpr int64_t kMostTileRows = 192;
// Keys of one dk, dv task.
inline constexpr int64_t kKeyTileRows = 192;
// Key tiles that one task of a short text reads at most; with more, its keys are split and merged by lse.
inline constexpr int64_t kSplitTiles = 16;

// Rows [first_row, first_row + rows) of the text's queries for each of the kv heads [kv_head, kv_head +
// heads).
struct QueryTask {
  int64_t text, kv_head, heads, first_row, rows;
  const void* packed;         // the one kv head's key tiles, tile_bytes each; null packs them as they come
  int64_t split, num_splits;  // which part of its key tiles; 0 of 1 for all
  void* partial_out;          // (num_splits, heads, rows, head_dim_v), fp32 (fp64), if num_splits > 1
  void* partial_lse;          // (num_splits, heads, rows), natural log
};
struct KeyTask {
  int64_t text, kv_head, first_key;
};

struct AttentionForward {
  // One key tile (64 keys) of a kv head: K and V (backward: as the dq pass wants them) into packed.
  void (*pack_keys)(const AttentionParams&, int64_t text, int64_t kv_head, int64_t tile, bool backward,
                    void* packed, void* scratch);
  void (*forward)(const AttentionParams&, const QueryTask&, void* scratch);
  // Joins the splits of a task into out and lse.
  void (*merge_splits)(const AttentionParams&, const QueryTask&);
  int64_t (*tile_bytes)(const AttentionParams&);     // of one packed key tile
  int64_t (*scratch_bytes)(const AttentionParams&);  // of any forward pass, 64-byte aligned
};

struct AttentionBackward {
  // dq, delta and the slot's dbias.
  void (*queries)(const AttentionParams&, const QueryTask&, int64_t bias_slot, void* scratch);
  void (*keys)(const AttentionParams&, const KeyTask&, void* scratch);  // dk and dv, once delta is there
  int64_t (*scratch_bytes)(const AttentionParams&);
};

const AttentionForward& attention_forward(Isa isa, DType dtype);
const AttentionBackward& attention_backward(Isa isa, DType dtype);

}  // namespace lck
