// A query tile against packed key tiles: P and dS of the whole pair of tiles as in grad_rows.h, then dQ += dS
// K, dV += P^T dO, dK += dS^T Q. Included only by files that are compiled once per instruction set.
#pragma once

#include "cpu/attention/kernel/grad_rows.h"
#include "cpu/attention/kernel/result_rows.h"

namespace lck::LCK_ISA {

inline constexpr int kTileBlocks = (kTile + kRows - 1) / kRows;
inline constexpr int64_t kPairElements = kTileBlocks * kRows * kTile;  // of S or dP of two tiles

// Keys of a task, and one query tile at a time.
template <typename U>
struct KeyGradScratch {
  using A = AccOf<U>;
  UnitOf<U>* staged;               // (kTile, staged units of the longer head dim)
  GradRows<U> rows;                // a query tile
  UnitOf<U>*q_along, *dout_along;  // its q and dout, zeros where they are not finite
  A *s, *dp;                       // (kTileBlocks * kRows, kTile)
  UnitOf<U>*probs, *ds;            // (kTile / kDepth, kTile); s and dp where a unit is an element
  UnitOf<U>* ds_rows;              // (kRows, kTile / kDepth); null where a unit is an element
  GradRowScratch<A> row;
  A* dq;               // (kTile, columns)
  std::byte* keys;     // (num_tiles) packed key tiles
  int64_t tile_bytes;  // of one
  A *dk, *dv;          // (num_tiles * kTile, columns)

  static KeyGradScratch of(Arena* arena, const AttentionParams& p, int64_t num_tiles) {
    KeyGradScratch x{};
    const int64_t longer = larger_of(staged_units<U>(p.head_dim), staged_units<U>(p.head_dim_v));
    x.staged = arena->take<UnitOf<U>>(kTile * longer);
    x.rows = GradRows<U>::of(arena, p);
    x.q_along = arena->take<UnitOf<U>>(along_units<U>(p.head_dim));
    x.dout_along = arena->take<UnitOf<U>>(along_units<U>(p.head_dim_v));
    x.s = arena->take<A>(kPairElements);
    x.dp = arena->take<A>(kPairElements);
    if constexpr (U::kDepth == 1) {
      x.probs = x.s, x.ds = x.dp;
    } else {
      x.probs = arena->take<UnitOf<U>>(kTile / U::kDepth * kTile);
      x.ds = arena->take<UnitOf<U>>(kTile / U::kDepth * kTile);
      x.ds_rows = arena->take<UnitOf<U>>(kRows * kTile / U::kDepth);
    }
    x.row = GradRowScratch<A>::of(arena);
    x.dq = arena->take<A>(kTile * padded_columns<U>(p.head_dim));
    x.tile_bytes = KeyTile<U>::bytes(p, true);
    x.keys = arena->take<std::byte>(num_tiles * x.tile_bytes);
    x.dk = arena->take<A>(num_tiles * kTile * padded_columns<U>(p.head_dim));
    x.dv = arena->take<A>(num_tiles * kTile * padded_columns<U>(p.head_dim_v));
    return x;
  }

  KeyTile<U> key_tile(const AttentionParams& p, int64_t index) const {
    return KeyTile<U>::at(p, true, keys + index * tile_bytes);
  }

  // The same scratch from key tile `index` on.
  KeyGradScratch from_tile(const AttentionParams& p, int64_t index) const {
    KeyGradScratch x = *this;
    x.keys += index * tile_bytes;
    x.dk += index * kTile * padded_columns<U>(p.head_dim);
    x.dv += index * kTile * padded_columns<U>(p.head_dim_v);
    return x;
  }

  // The same scratch with other memory for S and dP, kPairElements each.
  KeyGradScratch with_products(A* s_place, A* dp_place) const {
    KeyGradScratch x = *this;
    x.s = s_place, x.dp = dp_place;
    if constexpr (U::kDepth == 1) x.probs = x.s, x.ds = x.dp;
    return x;
  }

  void clear_dq(const AttentionParams& p) const {
    for (int64_t i = 0; i < kTile * padded_columns<U>(p.head_dim); i += kLanes<A>) store(Vec<A>{}, dq + i);
  }
};

// kTile rows [i0, i0 + kTile) of a head as panels along, zeros from `count` on and where `bad`.
template <typename U, typename T>
void pack_rows_along(const HeadsTensor& x, const Sequence& sequence, int64_t head, int64_t i0, int64_t count,
                     const uint8_t* bad, int64_t dim, UnitOf<U>* staged, UnitOf<U>* panels) {
  bool any_bad = false;
  for (int64_t f = 0; f < count; ++f) any_bad |= bad[f];
  const T* rows = row_of<const T>(x, sequence.batch, sequence.q_begin + i0, head);
  if (count == kTile && !any_bad && whole_vectors<U>(dim)) {
    pack_along<U>(dim, panels, from_rows<U, T>(rows, x.row_stride));
    return;
  }
  const int64_t stride = staged_units<U>(dim);
  for (int64_t f = 0; f < kTile; ++f) {
    if (f < count && !bad[f]) {
      stage_row<U>(rows + f * x.row_stride, dim, staged + f * stride);
    } else {
      zero_row<U>(staged + f * stride, stride);
    }
  }
  pack_along<U>(dim, panels, from_staged<U>(staged, dim));
}

// Packs queries [i0, i0 + kTile) of a head, or fewer at the end. state, sees: as in begin_grad_rows.
template <typename U, typename T, typename State, typename Sees>
void pack_query_tile(const AttentionParams& p, const Sequence& sequence, int64_t head, int64_t i0,
                     KeyGradScratch<U>* x, State state, Sees sees) {
  const int64_t count = smaller(kTile, sequence.q_len - i0);
  begin_grad_rows<U, T>(p, sequence, head, i0, count, x->staged, &x->rows, state, sees);
  pack_rows_along<U, T>(p.q, sequence, head, i0, count, x->rows.bad_q, p.head_dim, x->staged, x->q_along);
  pack_rows_along<U, T>(p.dout, sequence, head, i0, count, x->rows.bad_dout, p.head_dim_v, x->staged,
                        x->dout_along);
}

// Zeros the columns outside of `columns` of a block's rows, and the block's unused rows.
template <typename A>
inline void clear_outside(A* rows, int count, Span columns) {
  constexpr int L = kLanes<A>;
  for (int r = 0; r < kRows; ++r) {
    A* row = rows + r * kTile;
    const int64_t begin = r < count ? columns.begin : kTile, end = r < count ? columns.end : kTile;
    for (int64_t c = 0; c < begin; c += L) store(Vec<A>{}, row + c);
    for (int64_t c = end; c < kTile; c += L) store(Vec<A>{}, row + c);
  }
}

// dQ += dS K for block b, whose dS is in dp.
template <typename U>
inline void add_dq(const AttentionParams& p, const KeyGradScratch<U>& x, int b, Span columns,
                   const KeyTile<U>& tile, const AccOf<U>* dp) {
  const int64_t columns_q = padded_columns<U>(p.head_dim);
  const int rows = x.rows.blocks[b].rows, first = static_cast<int>(columns.begin),
            stop = static_cast<int>(columns.end);
  const UnitOf<U>* ds;
  if constexpr (U::kDepth == 1) {
    ds = dp;
  } else {
    for (int r = 0; r < rows; ++r) {
      store_units<U>(dp + r * kTile, first, stop, x.ds_rows + r * (kTile / U::kDepth));
    }
    ds = x.ds_rows;
  }
  multiply_along<U>(rows, ds, tile.k_along, first, stop, x.dq + int64_t{b} * kRows * columns_q, columns_q);
}

// The packed query tile against key tile `index` of the task, from key n0 on; adds to dq, dk and dv. made: S
// and dP are already in x.
template <typename U>
void grad_pair(const AttentionParams& p, const Sequence& sequence, int64_t n0, int64_t index, bool made,
               AccOf<U>* dbias, const KeyGradScratch<U>& x) {
  using A = AccOf<U>;
  const int64_t columns_k = padded_columns<U>(p.head_dim), columns_v = padded_columns<U>(p.head_dim_v);
  const KeyTile<U> tile = x.key_tile(p, index);
  A *dk = x.dk + index * kTile * columns_k, *dv = x.dv + index * kTile * columns_v;
  Span columns[kTileBlocks], all{0, 0};
  for (int b = 0; b < x.rows.num_blocks; ++b) {
    columns[b] = x.rows.blocks[b].template columns<A>(n0);
    all = hull(all, columns[b]);
  }
  if (empty(all)) return;
  for (int b = 0; b < x.rows.num_blocks; ++b) {
    A *s = x.s + b * kRows * kTile, *dp = x.dp + b * kRows * kTile;
    if (!empty(columns[b])) {
      if (!made) grad_products<U>(p, x.rows, b, tile, columns[b], s, dp);
      grad_block<U>(p, sequence, x.rows, b, n0, tile, columns[b], x.row, dbias, s, dp);
      add_dq(p, x, b, columns[b], tile, dp);
    }
    clear_outside(s, x.rows.blocks[b].rows, columns[b]);
    clear_outside(dp, x.rows.blocks[b].rows, columns[b]);
  }
  const int rows = static_cast<int>(smaller(x.rows.num_blocks * kRows, kTile));
  store_row_units<U>(x.s, rows, x.probs);
  store_row_units<U>(x.dp, rows, x.ds);
  for (int64_t k = all.begin / kRows * kRows; k < all.end; k += kRows) {
    const int height = static_cast<int>(smaller(kRows, kTile - k));
    Span blocks{0, 0};
    for (int b = 0; b < x.rows.num_blocks; ++b) {
      if (!empty(intersect(columns[b], {k, k + height}))) blocks = hull(blocks, {b, b + 1});
    }
    const int first = static_cast<int>(blocks.begin) * kRows;
    const int stop = static_cast<int>(smaller(blocks.end * kRows, rows));
    multiply_transposed<U>(height, x.probs + k, x.dout_along, first, stop, dv + k * columns_v, columns_v);
    multiply_transposed<U>(height, x.ds + k, x.q_along, first, stop, dk + k * columns_k, columns_k);
  }
}

// Packs keys [first_key, first_key + rows) of a sequence and sets dk = dv = 0.
template <typename U, typename T>
void begin_key_rows(const AttentionParams& p, const Sequence& sequence, int64_t kv_head, int64_t first_key,
                    int64_t rows, const KeyGradScratch<U>& x) {
  using A = AccOf<U>;
  const int64_t tiles = (rows + kTile - 1) / kTile;
  for (int64_t t = 0; t < tiles; ++t) {
    pack_key_tile<U, T>(p, sequence, kv_head, first_key + t * kTile, true, kNoReadAhead, x.staged,
                        x.key_tile(p, t));
  }
  const auto clear = [&](A* to, int64_t dim) {
    for (int64_t i = 0; i < tiles * kTile * padded_columns<U>(dim); i += kLanes<A>) store(Vec<A>{}, to + i);
  };
  clear(x.dk, p.head_dim);
  clear(x.dv, p.head_dim_v);
}

// The packed query tile against those of the keys that it sees.
template <typename U>
void grad_pairs(const AttentionParams& p, const Sequence& sequence, int64_t first_key, int64_t rows,
                AccOf<U>* dbias, const KeyGradScratch<U>& x) {
  Span seen{0, 0};
  for (int b = 0; b < x.rows.num_blocks; ++b) {
    seen = hull(seen, hull(x.rows.blocks[b].hull[0], x.rows.blocks[b].hull[1]));
  }
  seen = intersect(seen, {first_key, first_key + rows});
  const Span tiles = empty(seen) ? Span{0, 0} : tiles_of({seen.begin - first_key, seen.end - first_key});
  for (int64_t t = tiles.begin; t < tiles.end; ++t) {
    grad_pair<U>(p, sequence, first_key + t * kTile, t, false, dbias, x);
  }
}

// Writes dk and dv of keys [first_key, first_key + rows).
template <typename U, typename T>
void store_key_rows(const AttentionParams& p, const Sequence& sequence, int64_t kv_head, int64_t first_key,
                    int64_t rows, const KeyGradScratch<U>& x) {
  using A = AccOf<U>;
  for (int64_t f = 0; f < rows; ++f) {
    const int64_t j = sequence.k_begin + first_key + f;
    store_row(x.dk + f * padded_columns<U>(p.head_dim), static_cast<A>(p.softmax_scale), p.head_dim,
              row_of<T>(p.dk, sequence.batch, j, kv_head));
    store_row(x.dv + f * padded_columns<U>(p.head_dim_v), A{1}, p.head_dim_v,
              row_of<T>(p.dv, sequence.batch, j, kv_head));
  }
}

}  // namespace lck::LCK_ISA
