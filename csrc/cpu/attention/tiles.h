// Which key tiles a query task reads; shared by the host, which counts them, and the kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "params.h"

namespace lck {

// Keys (or queries) of a tile.
inline constexpr int kTile = 64;

// Tiles that contain all keys seen by queries at [first, last]: those of sink, then those of window.
struct TileList {
  Span sink, window;
};

static inline int64_t count(const TileList& list) {
  return list.sink.end - list.sink.begin + list.window.end - list.window.begin;
}

static inline int64_t tile_at(const TileList& list, int64_t u) {
  const int64_t sinks = list.sink.end - list.sink.begin;
  return u < sinks ? list.sink.begin + u : list.window.begin + (u - sinks);
}

static inline Span tiles_of(Span rows) {
  return empty(rows) ? Span{0, 0} : Span{rows.begin / kTile, (rows.end + kTile - 1) / kTile};
}

static inline TileList tile_list(const AttentionParams& p, const Sequence& sequence, int64_t first,
                                 int64_t last) {
  const VisibleKeys seen = visible_hull(p.window, sequence.bounds, p.segment_spans != nullptr, first, last);
  TileList list{tiles_of(seen.sink), tiles_of(seen.window)};
  if (!empty(list.window)) list.sink.end = smaller(list.sink.end, list.window.begin);
  if (empty(list.sink)) list.sink = {0, 0};
  return list;
}

// Those of the queries [queries.begin, queries.end) of a sequence.
static inline TileList tiles_of_queries(const AttentionParams& p, const Sequence& sequence, Span queries) {
  return tile_list(p, sequence, sequence.offset + queries.begin, sequence.offset + queries.end - 1);
}

// The segment of a key position.
static inline Span segment_of(const AttentionParams& p, const Sequence& sequence, int64_t position) {
  if (!p.segment_spans) return whole_sequence(sequence.bounds);
  if (position < 0 || position >= sequence.bounds.num_keys) return {0, 0};
  return p.segment_spans[sequence.batch * p.seqlen_k + position];
}

// Query tiles of a sequence in which some query may see one of the keys.
static inline Span query_tiles(const AttentionParams& p, const Sequence& sequence, Span keys) {
  const Span all_queries{sequence.offset, sequence.offset + sequence.q_len};
  keys = intersect(keys, valid_keys(sequence.bounds));
  Span queries{0, 0};
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    const Span segment = segment_of(p, sequence, j);
    Span see = intersect(all_queries, visible_queries(p.window, sequence.bounds, segment, j));
    if (p.segment_spans) see = intersect(see, segment);
    queries = hull(queries, see);
  }
  return empty(queries) ? Span{0, 0}
                        : tiles_of({queries.begin - sequence.offset, queries.end - sequence.offset});
}

// The most rows of a kv head with which its keys are read in place: packing is faster with more.
inline constexpr int64_t kInPlaceRows = 8;

static inline bool reads_in_place(const AttentionParams& p, int64_t rows) {
  return rows <= kInPlaceRows && !p.kv_mask && !p.scattered;
}

// Memory of the packed key tiles of one kv head: tiles below `fixed` (sink tokens) have their own slots, the
// others use a ring. data is null if no tiles are packed.
struct PackedTiles {
  std::byte* data;
  int64_t tile_bytes, fixed, ring;

  int64_t slot(int64_t tile) const { return tile < fixed ? tile : fixed + (tile - fixed) % ring; }
  std::byte* at(int64_t tile) const { return data + slot(tile) * tile_bytes; }
};

static inline int64_t count(const PackedTiles& slots) {
  return slots.fixed + slots.ring;
}

// Slots for the tiles that any `step` consecutive queries of a sequence see, without memory.
static inline PackedTiles slots_of(const AttentionParams& p, const Sequence& sequence, int64_t step) {
  PackedTiles slots{};
  for (int64_t first = 0; first < sequence.q_len; first += step) {
    const TileList list = tiles_of_queries(p, sequence, {first, smaller(first + step, sequence.q_len)});
    slots.fixed = larger(slots.fixed, list.sink.end);
    slots.ring = larger(slots.ring, list.window.end - list.window.begin);
  }
  return slots;
}

// A query of a sequence and its head.
struct QueryRow {
  int64_t head, query;
};

// Row f of a sequence and kv head: the queries of the heads that share the kv head, sorted by head.
static inline QueryRow query_row(const AttentionParams& p, const Sequence& sequence, int64_t kv_head,
                                 int64_t f) {
  return {kv_head * (p.num_heads / p.num_kv_heads) + f / sequence.q_len, f % sequence.q_len};
}

// Positions of the first and the last query among rows [first_row, first_row + rows), which may span heads.
static inline Span row_positions(const Sequence& sequence, int64_t first_row, int64_t rows) {
  const int64_t begin = first_row % sequence.q_len, end = begin + rows;
  if (end > sequence.q_len) return {sequence.offset, sequence.offset + sequence.q_len};
  return {sequence.offset + begin, sequence.offset + end};
}

}  // namespace lck
