// The tiles of queries that a tile of keys loops over.
#pragma once

#include "cuda/attention/key_tiles.cuh"

namespace lck {

// Queries of a sequence that see one key: [begin, end).
struct RowQueries {
  int begin, end;

  __device__ __forceinline__ bool seen_by(int query) const { return query >= begin && query < end; }
};

// The same in shared memory.
__device__ __forceinline__ void store_row_queries(uint32_t to, const RowQueries& row) {
  ptx::store_shared(to, static_cast<uint32_t>(row.begin));
  ptx::store_shared(to + 4, static_cast<uint32_t>(row.end));
}
__device__ __forceinline__ RowQueries load_row_queries(uint32_t from) {
  uint32_t at[2];
  ptx::load_shared(at, from);
  return {static_cast<int>(at[0]), static_cast<int>(at[1])};
}

// The queries that see a key, which must be valid.
__device__ __forceinline__ RowQueries row_queries(const Window& window, const Sequence& sequence, int key) {
  const Span at = visible_queries(window, sequence.bounds, whole_sequence(sequence.bounds), key);
  const auto query = [&](int64_t position) {
    return static_cast<int>(smaller(larger(position - sequence.offset, 0), sequence.q_len));
  };
  return {query(at.begin), query(at.end)};
}

// `count` tiles of the queries [begin, end) that see one of the keys [key, key_end), the valid ones of a
// tile; every query of the tiles [clear, clear_end) sees all keys of the tile.
struct QueryTiles {
  int key, key_end, begin, end, count, clear, clear_end;

  __device__ __forceinline__ bool has(int k) const { return k >= key && k < key_end; }
};

__device__ __forceinline__ QueryTiles query_tiles(const GpuAttentionParams& a, const Sequence& sequence,
                                                  int first, int keys, int queries_a_tile) {
  const Span valid = intersect(valid_keys(sequence.bounds), {first, first + keys});
  QueryTiles t{};
  if (empty(valid)) return t;
  t.key = static_cast<int>(valid.begin), t.key_end = static_cast<int>(valid.end);
  // Both ends do not decrease from one key to the next, except that sink tokens, the first keys, are seen by
  // all later queries.
  const RowQueries of_first = row_queries(a.p.window, sequence, t.key);
  const RowQueries of_last = row_queries(a.p.window, sequence, t.key_end - 1);
  t.begin = of_first.begin, t.end = static_cast<int>(larger(of_first.end, of_last.end));
  if (t.end <= t.begin) return t;
  t.count = (t.end - t.begin + queries_a_tile - 1) / queries_a_tile;
  const bool whole = valid.begin == first && valid.end == first + keys;
  if (!whole || a.p.kv_mask || a.p.window.sink_tokens) return t;
  const int from = of_last.begin - t.begin, to = of_first.end - t.begin;
  t.clear = static_cast<int>(smaller((from + queries_a_tile - 1) / queries_a_tile, t.count));
  t.clear_end = static_cast<int>(larger(smaller(to / queries_a_tile, t.count), t.clear));
  return t;
}

}  // namespace lck
