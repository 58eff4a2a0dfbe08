// The tile of rows of a block and the tiles of keys it loops over, as in
// lckernels/backends/triton/kernels/key_tiles.py. Indices in a sequence are int32, positions int64.
#pragma once

#include "cuda/attention/gpu_params.h"
#include "cuda/ptx.cuh"

namespace lck {

// A tile of the rows of a sequence.
struct SequenceTile {
  int64_t sequence;
  int first;  // row of the sequence
};

// Tile `slot` of a row of the batch, see num_tiles; for a slot without a tile, one after the sequence's end,
// for any bounds. `total`: rows of the tensor.
__device__ __forceinline__ SequenceTile locate(const LayoutTables& layout, const int64_t* cu_seqlens,
                                               int64_t total, int64_t batch, int64_t slot, int rows) {
  constexpr int kPast = INT32_MAX;
  const auto slot_of = [&](int64_t sequence) {
    return rows_of_sequence(cu_seqlens, sequence, total).begin / rows + sequence;
  };
  int64_t sequence = batch, first_slot = 0;
  if (cu_seqlens) {
    int64_t end = layout.num_sequences;
    for (sequence = 0; end - sequence > 1;) {
      const int64_t middle = (sequence + end) / 2;
      (slot_of(middle) <= slot ? sequence : end) = middle;
    }
    first_slot = slot_of(sequence);
  }
  const int64_t first = (slot - first_slot) * rows;
  return {sequence, first < 0 || first > kPast ? kPast : static_cast<int>(first)};
}

// The queries of a block in a grid of batch > kv heads > tiles > heads of the group, the last
// fastest. The last tiles are first: with a causal window they see most keys, and the load is balanced.
struct QueryBlock {
  Sequence sequence;
  int64_t head, kv_head;
  int first;  // query of the sequence; after its end if the block has none
};

__device__ __forceinline__ QueryBlock query_block(const GpuAttentionParams& a, int64_t tiles, int rows) {
  const AttentionParams& p = a.p;
  const int64_t group = p.num_heads / p.num_kv_heads, block = blockIdx.x, slot = block / group;
  const int64_t kv_head = slot / tiles % p.num_kv_heads, batch = slot / tiles / p.num_kv_heads;
  const SequenceTile place =
      locate(a.layout, a.layout.cu_seqlens_q, p.seqlen_q, batch, tiles - 1 - slot % tiles, rows);
  return {sequence_at(a.layout, p.seqlen_q, p.seqlen_k, p.window.chunk, place.sequence),
          kv_head * group + block % group, kv_head, place.first};
}

// Keys that one query sees, within its sequence: [begin, end) by its window, [sink, sink_end) as sink tokens.
struct RowKeys {
  int begin, end, sink, sink_end;

  __device__ __forceinline__ bool sees(int j) const { return j >= begin && j < end; }
  __device__ __forceinline__ bool sees_sink(int j) const { return j >= sink && j < sink_end; }
};

// The same in shared memory.
inline constexpr int kRowKeysBytes = 16;

__device__ __forceinline__ void store_row_keys(uint32_t to, const RowKeys& row) {
  const int at[4] = {row.begin, row.end, row.sink, row.sink_end};
#pragma unroll
  for (int i = 0; i < 4; ++i) ptx::store_shared(to + 4 * i, static_cast<uint32_t>(at[i]));
}
__device__ __forceinline__ RowKeys load_row_keys(uint32_t from) {
  uint32_t at[4];
  ptx::load_shared(at, from);
  return {static_cast<int>(at[0]), static_cast<int>(at[1]), static_cast<int>(at[2]), static_cast<int>(at[3])};
}

__device__ __forceinline__ int inside_sequence(int64_t key, int64_t num_keys) {
  return static_cast<int>(smaller(larger(key, 0), num_keys));
}

__device__ __forceinline__ RowKeys row_keys(const Window& window, const Sequence& sequence, int query) {
  const int64_t num_keys = sequence.bounds.num_keys;
  const VisibleKeys seen =
      visible_keys(window, sequence.bounds, whole_sequence(sequence.bounds), query + sequence.offset);
  return {inside_sequence(seen.window.begin, num_keys), inside_sequence(seen.window.end, num_keys),
          inside_sequence(seen.sink.begin, num_keys), inside_sequence(seen.sink.end, num_keys)};
}

// Tiles of keys of a tile of queries: first those of its windows, [begin, end), then those of the sink tokens
// left of them, [sink, sink_end). With features tiles begin at multiples of four keys, as dropout's draws do.
// Every row sees all keys of the tiles [clear, clear_end).
struct KeyTiles {
  int begin, end, sink, sink_end;
  int num_window, clear, clear_end, count;
};

// A tile of keys, from `first` on; without those outside [begin, end). The next tile begins `step` keys
// later.
struct KeyTile {
  int first, begin, end;
  bool masked;
  int step;

  __device__ __forceinline__ bool has(int j) const {
    return static_cast<unsigned>(j - begin) < static_cast<unsigned>(end - begin);
  }
};

// Whether a row sees a key of a masked tile; kv_mask begins at the sequence's first key, or is null.
template <bool kFull>
__device__ __forceinline__ bool sees(const RowKeys& row, const KeyTile& tile, const uint8_t* kv_mask,
                                     int key) {
  if (!kFull) return row.sees(key);
  return (row.sees(key) || row.sees_sink(key)) && tile.has(key) && (!kv_mask || kv_mask[key]);
}

// First key of the tiles of the keys from `begin` on.
template <bool kFull>
__device__ __forceinline__ int tiles_begin(int begin) {
  return kFull ? begin & ~3 : begin;
}

template <bool kFull>
__device__ __forceinline__ int tiles_between(int begin, int end, int keys_a_tile) {
  return end > begin ? (end - tiles_begin<kFull>(begin) + keys_a_tile - 1) / keys_a_tile : 0;
}

template <bool kFull>
__device__ __forceinline__ KeyTiles key_tiles(const GpuAttentionParams& a, const Sequence& sequence,
                                              int first, int last, int keys_a_tile) {
  const int64_t num_keys = sequence.bounds.num_keys;
  const VisibleKeys seen =
      visible_hull(a.p.window, sequence.bounds, false, first + sequence.offset, last + sequence.offset);
  KeyTiles t{};
  t.begin = inside_sequence(seen.window.begin, num_keys), t.end = inside_sequence(seen.window.end, num_keys);
  t.count = t.num_window = tiles_between<kFull>(t.begin, t.end, keys_a_tile);
  if (kFull) {
    t.sink = inside_sequence(seen.sink.begin, num_keys),
    t.sink_end = inside_sequence(seen.sink.end, num_keys);
    t.count += tiles_between<kFull>(t.sink, t.sink_end, keys_a_tile);
  }
  if (a.p.kv_mask) return t;
  // The ends of windows do not decrease from one query to the next.
  const RowKeys of_first = row_keys(a.p.window, sequence, first),
                of_last = row_keys(a.p.window, sequence, last);
  const int from = of_last.begin - tiles_begin<kFull>(t.begin),
            to = of_first.end - tiles_begin<kFull>(t.begin);
  t.clear = static_cast<int>(smaller(from > 0 ? (from + keys_a_tile - 1) / keys_a_tile : 0, t.num_window));
  t.clear_end = static_cast<int>(larger(smaller(to > 0 ? to / keys_a_tile : 0, t.num_window), t.clear));
  // Tile 0 may begin with a key that no query sees.
  if (t.clear == 0 && t.begin != tiles_begin<kFull>(t.begin)) t.clear = t.clear_end > 0 ? 1 : 0;
  return t;
}

template <bool kFull>
__device__ __forceinline__ KeyTile key_tile(const KeyTiles& t, int n, int keys_a_tile) {
  const int first = tiles_begin<kFull>(t.begin) + n * keys_a_tile, sink = tiles_begin<kFull>(t.sink);
  if (!kFull || n < t.num_window) {
    const int step = kFull && n + 1 == t.num_window ? sink - first : keys_a_tile;
    return {first, t.begin, t.end, n < t.clear || n >= t.clear_end, step};
  }
  return {sink + (n - t.num_window) * keys_a_tile, t.sink, t.sink_end, true, keys_a_tile};
}

}  // namespace lck
