// Packed key tiles. Included only by files that are compiled once per instruction set.
#pragma once

#include "cpu/attention/kernel/rows.h"
#include "cpu/attention/kernels.h"

namespace lck::LCK_ISA {

// Allocates 64-byte aligned parts of a buffer; with a null buffer it only counts bytes.
struct Arena {
  char* base;
  int64_t used = 0;

  template <typename E>
  E* take(int64_t count) {
    E* piece = base ? reinterpret_cast<E*>(base + used) : nullptr;
    used += round_up(count * static_cast<int64_t>(sizeof(E)), 64);
    return piece;
  }
};

inline int64_t larger_of(int64_t a, int64_t b) {
  return a > b ? a : b;
}

// 64 keys of a kv head. Rows that are hidden or not finite are stored as zeros and marked in `penalty`
// and `bad_value`.
template <typename U>
struct KeyTile {
  UnitOf<U>* k;        // across
  UnitOf<U>* v;        // along in the forward, across in the backward
  UnitOf<U>* k_along;  // backward only
  AccOf<U>* penalty;   // (kTile) 0; -inf: hidden by kv_mask; NaN: the key is not finite
  uint8_t* bad_value;  // (kTile) 1: the value is not finite
  int32_t* special;    // whether penalty or bad_value has a mark

  static KeyTile of(Arena* arena, const AttentionParams& p, bool backward) {
    KeyTile tile{};
    tile.k = arena->take<UnitOf<U>>(across_units<U>(p.head_dim));
    tile.v = arena->take<UnitOf<U>>(backward ? across_units<U>(p.head_dim_v) : along_units<U>(p.head_dim_v));
    if (backward) tile.k_along = arena->take<UnitOf<U>>(along_units<U>(p.head_dim));
    tile.penalty = arena->take<AccOf<U>>(kTile);
    tile.bad_value = arena->take<uint8_t>(kTile);
    tile.special = arena->take<int32_t>(1);
    return tile;
  }
  static int64_t bytes(const AttentionParams& p, bool backward) {
    Arena arena{nullptr};
    of(&arena, p, backward);
    return arena.used;
  }
  static KeyTile at(const AttentionParams& p, bool backward, std::byte* packed) {
    Arena arena{reinterpret_cast<char*>(packed)};
    return of(&arena, p, backward);
  }
};

template <typename U>
inline void zero_row(UnitOf<U>* row, int64_t count) {
  for (int64_t i = 0; i < count; ++i) row[i] = 0;
}

// Stages keys [n0, n0 + kTile) of x, zeros for a key that does not exist, is hidden, or is not finite. Calls
// each(key, hidden, finite) for every key.
template <typename U, typename T, typename Each>
inline void stage_keys(const AttentionParams& p, const Sequence& sequence, const HeadsTensor& x,
                       int64_t kv_head, int64_t dim, int64_t n0, UnitOf<U>* staged, Each each) {
  const int64_t stride = staged_units<U>(dim);
  const Span valid = valid_keys(sequence.bounds);
  const uint8_t* mask = p.kv_mask ? p.kv_mask + sequence.batch * p.seqlen_k + sequence.k_begin : nullptr;
  for (int n = 0; n < kTile; ++n) {
    const int64_t j = n0 + n;
    const bool outside = j < valid.begin || j >= valid.end;
    const bool hidden = !outside && mask && !mask[j];
    bool finite = true;
    if (!outside && !hidden) {
      const T* row = row_of<const T>(x, sequence.batch, sequence.k_begin + j, kv_head);
      prefetch_row(row + kPrefetchRows * x.row_stride, dim);
      finite = stage_row<U>(row, dim, staged + n * stride);
    }
    if (outside || hidden || !finite) zero_row<U>(staged + n * stride, stride);
    each(n, hidden, finite);
  }
}

// The first bytes of the next tile that are prefetched with a head: the head's own rows if they are
// contiguous; otherwise, if the task's heads make up whole rows, a part in memory order.
template <typename T>
inline const T* ahead_of(const Sequence& sequence, const HeadsTensor& x, int64_t kv_head, int64_t dim,
                         ReadAhead next) {
  if (next.n0 < 0 || next.n0 + kTile > sequence.bounds.num_keys) return nullptr;
  const int64_t row = sequence.k_begin + next.n0;
  if (x.row_stride == dim) return row_of<const T>(x, sequence.batch, row, kv_head);
  if (x.head_stride != dim || x.row_stride != next.heads * dim) return nullptr;
  return row_of<const T>(x, sequence.batch, row, next.first_head) + (kv_head - next.first_head) * kTile * dim;
}

// Panels across or along of keys [n0, n0 + kTile). Calls each(key, hidden, finite) for every key only if
// one is hidden or not finite, and returns whether that is so. staged: memory for kTile rows.
template <typename U, typename T, bool kAcross, typename Each>
inline bool pack_keys(const AttentionParams& p, const Sequence& sequence, const HeadsTensor& x,
                      int64_t kv_head, int64_t dim, int64_t n0, ReadAhead next, UnitOf<U>* staged,
                      UnitOf<U>* panels, Each each) {
  const auto pack = [&](auto load) {
    if constexpr (kAcross) {
      return pack_across<U>(dim, panels, load);
    } else {
      return pack_along<U>(dim, panels, load);
    }
  };
  const Span valid = valid_keys(sequence.bounds);
  const bool all_there = !p.kv_mask && n0 >= valid.begin && n0 + kTile <= valid.end;
  if (all_there && whole_vectors<U>(dim)) {
    const T* rows = row_of<const T>(x, sequence.batch, sequence.k_begin + n0, kv_head);
    if (pack(from_rows<U, T>(rows, x.row_stride, ahead_of<T>(sequence, x, kv_head, dim, next)))) return false;
  }
  bool special = false;
  stage_keys<U, T>(p, sequence, x, kv_head, dim, n0, staged, [&](int n, bool hidden, bool finite) {
    each(n, hidden, finite);
    special |= hidden || !finite;
  });
  pack(from_staged<U>(staged, dim));
  return special;
}

// staged: kTile rows of the longer head dim.
template <typename U, typename T>
void pack_key_tile(const AttentionParams& p, const Sequence& sequence, int64_t kv_head, int64_t n0,
                   bool backward, ReadAhead next, UnitOf<U>* staged, const KeyTile<U>& tile) {
  using A = AccOf<U>;
  for (int n = 0; n < kTile; ++n) tile.penalty[n] = 0, tile.bad_value[n] = 0;
  const auto key = [&](int n, bool hidden, bool finite) {
    tile.penalty[n] = hidden ? -kInf<A> : finite ? A{0} : kNan<A>;
  };
  const auto value = [&](int n, bool, bool finite) { tile.bad_value[n] = !finite; };
  int32_t special =
      pack_keys<U, T, true>(p, sequence, p.k, kv_head, p.head_dim, n0, next, staged, tile.k, key);
  if (backward) {
    pack_keys<U, T, false>(p, sequence, p.k, kv_head, p.head_dim, n0, kNoReadAhead, staged, tile.k_along,
                           [](int, bool, bool) {});
    special |=
        pack_keys<U, T, true>(p, sequence, p.v, kv_head, p.head_dim_v, n0, next, staged, tile.v, value);
  } else {
    special |=
        pack_keys<U, T, false>(p, sequence, p.v, kv_head, p.head_dim_v, n0, next, staged, tile.v, value);
  }
  *tile.special = special;
}

// Tile `index` of a kv head: the packed one, or if there are no packed tiles, packed into `own` now.
template <typename U, typename T>
inline KeyTile<U> key_tile(const AttentionParams& p, const Sequence& sequence, int64_t kv_head, int64_t index,
                           const PackedTiles& packed, ReadAhead next, UnitOf<U>* staged,
                           const KeyTile<U>& own) {
  if (packed.data) return KeyTile<U>::at(p, false, packed.at(index));
  pack_key_tile<U, T>(p, sequence, kv_head, index * kTile, false, next, staged, own);
  return own;
}

// The penalty added to the columns of one row: the tile's, and -inf where the segment numbers differ.
template <typename A>
inline const A* row_penalty(const AttentionParams& p, const Sequence& sequence, const A* tile_penalty,
                            int64_t n0, int64_t position, A* scratch) {
  if (!p.scattered) return tile_penalty;
  const int32_t* numbers = p.segments + sequence.batch * p.seqlen_k;
  const bool inside = position >= 0 && position < sequence.bounds.num_keys;
  const int32_t own = inside ? numbers[position] : -1;
  for (int n = 0; n < kTile; ++n) {
    const int64_t j = n0 + n;
    const bool same = j < sequence.bounds.num_keys && numbers[j] == own;
    scratch[n] = same ? tile_penalty[n] : -kInf<A>;
  }
  return scratch;
}

}  // namespace lck::LCK_ISA
