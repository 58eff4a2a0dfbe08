// dq of windowed attention: query rows > key tiles > blocks of rows: dS as in grad_rows.h, dQ += dS K.
// Included only by files that are compiled once per instruction set.
#pragma once

#include "cpu/attention/grad_rows.h"

namespace lck::LCK_ISA {

template <typename U>
struct QueryGradScratch {
  using A = AccOf<U>;
  UnitOf<U>* staged;  // (kTile, staged units of the longer head dim)
  GradRows<U> rows;
  A* dq;          // (rows, columns)
  A *s, *dp;      // (kRows, kTile)
  UnitOf<U>* ds;  // (kRows, kTile / kDepth); dp itself where a unit is an element
  GradRowScratch<A> row;

  static QueryGradScratch of(Arena* arena, const AttentionParams& p) {
    QueryGradScratch x;
    const int64_t longer = larger_of(staged_units<U>(p.head_dim), staged_units<U>(p.head_dim_v));
    x.staged = arena->take<UnitOf<U>>(kTile * longer);
    x.rows = GradRows<U>::of(arena, p, kMostTileRows);
    x.dq = arena->take<A>(kMostBlocks * kRows * padded_columns<U>(p.head_dim));
    x.s = arena->take<A>(kRows * kTile);
    x.dp = arena->take<A>(kRows * kTile);
    if constexpr (U::kDepth == 1) {
      x.ds = x.dp;
    } else {
      x.ds = arena->take<UnitOf<U>>(kRows * kTile / U::kDepth);
    }
    x.row = GradRowScratch<A>::of(arena);
    return x;
  }
};

// begin_grad_rows, and dq = 0.
template <typename U, typename T, typename RowAt, typename State, typename Sees>
void begin_query_grads(const AttentionParams& p, const Text& text, int64_t count, QueryGradScratch<U>* x,
                       RowAt row_at, State state, Sees sees) {
  using A = AccOf<U>;
  begin_grad_rows<U, T>(p, text, count, x->staged, &x->rows, row_at, state, sees);
  const int64_t numel = x->rows.num_blocks * kRows * padded_columns<U>(p.head_dim);
  for (int64_t i = 0; i < numel; i += kLanes<A>) store(Vec<A>{}, x->dq + i);
}

// All blocks against the key tile from key n0, packed for the backward.
template <typename U>
void query_grad_tile(const AttentionParams& p, const Text& text, int64_t n0, const KeyTile<U>& tile,
                     const QueryGradScratch<U>& x) {
  using A = AccOf<U>;
  const int64_t columns_q = padded_columns<U>(p.head_dim);
  for (int b = 0; b < x.rows.num_blocks; ++b) {
    const RowBlock& block = x.rows.blocks[b];
    const Span columns = block.columns<A>(n0);
    if (empty(columns)) continue;
    const int first = static_cast<int>(columns.begin), stop = static_cast<int>(columns.end);
    grad_block<U, false>(p, text, x.rows, b, n0, tile, columns, x.row, nullptr, x.s, x.dp);
    for (int r = 0; r < block.rows; ++r) {
      store_units<U>(x.dp + r * kTile, first, stop, x.ds + r * (kTile / U::kDepth));
    }
    multiply_along<U>(block.rows, x.ds, tile.k_along, first, stop, x.dq + int64_t{b} * kRows * columns_q,
                      columns_q);
  }
}

}  // namespace lck::LCK_ISA
