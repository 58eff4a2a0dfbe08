// dq of windowed attention: query rows > key tiles > blocks of rows: S = Q K^T, dP = dO V^T, dS = P (dP -
// delta), dQ += dS K. Included only by files that are compiled once per instruction set.
#pragma once

#include "cpu/attention/forward.h"

namespace lck::LCK_ISA {

// ds times the derivative of cap * tanh(s / cap); what is masked stays 0, whatever its tanh.
template <typename A>
inline void uncap_row(const A* tanh_row, int first, int stop, A* ds) {
  for (int c = first; c < stop; c += kLanes<A>) {
    const Vec<A> t = load_bytes<Vec<A>>(tanh_row + c), grad = load_bytes<Vec<A>>(ds + c);
    store(grad == A{0} ? grad : grad * (A{1} - t * t), ds + c);
  }
}

template <typename U>
struct QueryGradScratch {
  using A = AccOf<U>;
  UnitOf<U>* staged;  // (kTile, staged units of the longer head dim)
  UnitOf<U>* q;       // A operands of all blocks
  UnitOf<U>* dout;
  A* dq;            // (rows, columns)
  A* lse;           // (rows), times log2(e); +inf where the row sees nothing
  A* delta;         // (rows)
  A* s;             // (kRows, kTile)
  A* dp;            // (kRows, kTile)
  A* tanh;          // (kTile)
  A* keep;          // (kTile)
  A* penalty;       // (kTile)
  UnitOf<U>* ds;    // (kRows, kTile / kDepth); dp itself where a unit is an element
  UnitOf<U>* keys;  // the tile's K, along
  RowBlock* blocks;

  static QueryGradScratch of(Arena* arena, const AttentionParams& p) {
    QueryGradScratch x;
    const int64_t rows = kMostBlocks * kRows;
    const int64_t longer = larger_of(staged_units<U>(p.head_dim), staged_units<U>(p.head_dim_v));
    x.staged = arena->take<UnitOf<U>>(kTile * longer);
    x.q = arena->take<UnitOf<U>>(rows * units<U>(p.head_dim));
    x.dout = arena->take<UnitOf<U>>(rows * units<U>(p.head_dim_v));
    x.dq = arena->take<A>(rows * padded_columns<U>(p.head_dim));
    x.lse = arena->take<A>(rows);
    x.delta = arena->take<A>(rows);
    x.s = arena->take<A>(kRows * kTile);
    x.dp = arena->take<A>(kRows * kTile);
    x.tanh = arena->take<A>(kTile);
    x.keep = arena->take<A>(kTile);
    x.penalty = arena->take<A>(kTile);
    if constexpr (U::kDepth == 1) {
      x.ds = x.dp;
    } else {
      x.ds = arena->take<UnitOf<U>>(kRows * kTile / U::kDepth);
    }
    x.keys = arena->take<UnitOf<U>>(along_units<U>(p.head_dim));
    x.blocks = arena->take<RowBlock>(kMostBlocks);
    return x;
  }
};

// <dout, out> of one row.
template <typename A, typename T>
inline A row_dot(const T* dout, const T* out, int64_t dim) {
  constexpr int L = kLanes<A>;
  Vec<A> total{};
  int64_t d = 0;
  for (; d + L <= dim; d += L) total += widen(dout + d) * widen(out + d);
  A rest = 0;
  for (; d < dim; ++d) rest += to_acc(dout[d]) * to_acc(out[d]);
  return sum<A>(total) + rest;
}

// ds of one query row: dp in, ds out; s holds the masked scores.
template <typename U>
inline void query_grad_row(const AttentionParams& p, const QueryGradScratch<U>& x, const Text& text,
                           const KeyTile<U>& tile, const RowBlock& block, int r, int64_t n0, Span columns,
                           bool masked, int64_t f, AccOf<U>* dbias) {
  using A = AccOf<U>;
  constexpr int L = kLanes<A>;
  A* s = x.s + r * kTile;
  A* dp = x.dp + r * kTile;
  const int first = static_cast<int>(columns.begin), stop = static_cast<int>(columns.end);
  const int64_t head = block.row[r].head, position = block.position[r];
  if (p.dropout) dropout_row(p, text, head, position, n0, x.keep);
  if (masked && *tile.special) {
    for (int c = first; c < stop; ++c) dp[c] = tile.bad_value[c] ? kNan<A> : dp[c];
  }
  const auto mask = ColumnMask<A>::of(block.seen[r], n0);
  const bool penalised = masked && (*tile.special || p.scattered);
  const A* penalty = penalised ? row_penalty(p, text, tile.penalty, n0, position, x.penalty) : nullptr;
  const A lse = x.lse[f], delta = x.delta[f];
  for (int c = first; c < stop; c += L) {
    const Vec<A> e = exp2(load_bytes<Vec<A>>(s + c) - lse);
    Vec<A> grad = load_bytes<Vec<A>>(dp + c);
    if (p.dropout) grad *= load_bytes<Vec<A>>(x.keep + c);
    grad = e * (grad - delta);
    if (masked) {
      VecInt<A> seen = mask.lanes(c);
      if (penalised) seen &= ~(load_bytes<Vec<A>>(penalty + c) < A{0});
      grad = seen ? grad : Vec<A>{};
    }
    store(grad, dp + c);
  }
  if (dbias) {
    A* row = dbias + head * p.bias_len;
    add_bias_gradient(dp, first, stop, n0 - position + p.bias_center, p.bias_len, row);
  }
  if (p.softcap) uncap_row(x.tanh, first, stop, dp);
  store_units<U>(dp, first, stop, x.ds + r * (kTile / U::kDepth));
}

// What a row of the backward starts from: its lse times log2(e), +inf where it sees nothing, and its delta.
template <typename A>
struct RowState {
  A lse, delta;
};
template <typename A>
inline A log2_lse(A lse) {
  return lse == -kInf<A> ? kInf<A> : lse * static_cast<A>(kLog2E);
}

// Rows [0, count): Q and dO as A operands, dq = 0. row_at(k): its query; state(query); sees(query): its keys,
// of which a row that sees nothing has none. Returns the number of blocks.
template <typename U, typename T, typename RowAt, typename State, typename Sees>
int begin_grad_rows(const AttentionParams& p, const Text& text, int64_t count, const QueryGradScratch<U>& x,
                    RowAt row_at, State state, Sees sees) {
  using A = AccOf<U>;
  const int64_t depth = units<U>(p.head_dim), depth_v = units<U>(p.head_dim_v);
  const int64_t stride = staged_units<U>(p.head_dim), stride_v = staged_units<U>(p.head_dim_v);
  int num_blocks = 0;
  for (int64_t f = 0; f < count; ++num_blocks) {
    RowBlock& block = x.blocks[num_blocks];
    block.rows = 0;
    const int64_t first = f;
    for (; f < count && block.rows < kRows; ++f) {
      const QueryRow row = row_at(f);
      const auto [lse, delta] = state(row);
      x.lse[f] = lse, x.delta[f] = delta;
      block.add(row, row.query + text.offset, lse == kInf<A> ? VisibleKeys{} : sees(row));
      const T* q = row_of<const T>(p.q, text.batch, text.q_begin + row.query, row.head);
      prefetch_row(q + kPrefetchRows * p.q.row_stride, p.head_dim);
      stage_row<U>(q, p.head_dim, x.staged + (f - first) * stride);
    }
    pack_block<U>(x.staged, stride, block.rows, depth, x.q + first * depth);
    for (int r = 0; r < block.rows; ++r) {
      const T* dout =
          row_of<const T>(p.dout, text.batch, text.q_begin + block.row[r].query, block.row[r].head);
      stage_row<U>(dout, p.head_dim_v, x.staged + r * stride_v);
    }
    pack_block<U>(x.staged, stride_v, block.rows, depth_v, x.dout + first * depth_v);
  }
  const int64_t numel = num_blocks * kRows * padded_columns<U>(p.head_dim);
  for (int64_t i = 0; i < numel; i += kLanes<A>) store(Vec<A>{}, x.dq + i);
  return num_blocks;
}

// All blocks against the key tile from key n0, whose K and V are across.
template <typename U, typename T>
void query_grad_tile(const AttentionParams& p, const Text& text, int64_t kv_head, int64_t n0,
                     const KeyTile<U>& tile, int num_blocks, AccOf<U>* dbias, const QueryGradScratch<U>& x) {
  using A = AccOf<U>;
  const int64_t depth = units<U>(p.head_dim), depth_v = units<U>(p.head_dim_v);
  const int64_t columns_q = padded_columns<U>(p.head_dim);
  const auto rule = ScoreRule<A>::of(p, false);
  bool keys_packed = false;
  for (int b = 0; b < num_blocks; ++b) {
    const RowBlock& block = x.blocks[b];
    const Span columns = block.columns<A>(n0);
    if (empty(columns)) continue;
    if (!keys_packed) {
      pack_keys<U, T, false>(p, text, p.k, kv_head, p.head_dim, n0, kNoReadAhead, x.staged, x.keys,
                             [](int, bool, bool) {});
      keys_packed = true;
    }
    const int first = static_cast<int>(columns.begin), stop = static_cast<int>(columns.end);
    const bool masked = *tile.special || p.scattered || !block.sees_all(n0, columns);
    const int64_t f = int64_t{b} * kRows;
    multiply_across<U>(block.rows, x.q + f * depth, tile.k, p.head_dim, x.s, first, stop);
    multiply_across<U>(block.rows, x.dout + f * depth_v, tile.v, p.head_dim_v, x.dp, first, stop);
    for (int r = 0; r < block.rows; ++r) {
      A* s = x.s + r * kTile;
      rule.apply(s, first, stop, block.row[r].head, n0 - block.position[r], x.tanh);
      if (masked) mask_row<U>(p, text, tile, block, r, n0, columns, s, x.penalty, nullptr);
      query_grad_row<U>(p, x, text, tile, block, r, n0, columns, masked, f + r, dbias);
    }
    multiply_along<U>(block.rows, x.ds, x.keys, first, stop, x.dq + f * columns_q, columns_q);
  }
}

// Writes dq and delta, and adds to the slot's dbias.
template <typename U, typename T>
void backward_queries_task(const AttentionParams& p, const QueryTask& task, int64_t bias_slot,
                           void* scratch) {
  using A = AccOf<U>;
  Arena arena{static_cast<char*>(scratch)};
  const auto x = QueryGradScratch<U>::of(&arena, p);
  const Text& text = p.texts[task.text];
  A* dbias = p.dbias ? static_cast<A*>(p.dbias) + bias_slot * p.num_heads * p.bias_len : nullptr;
  const auto row_at = [&](int64_t f) { return query_row(p, text, task.kv_head, task.first_row + f); };
  const auto state = [&](QueryRow row) {
    const int64_t i = lse_index(p, text, row), query = text.q_begin + row.query;
    A delta = row_dot<A>(row_of<const T>(p.dout, text.batch, query, row.head),
                         row_of<const T>(p.out, text.batch, query, row.head), p.head_dim_v);
    if (p.dlse) delta -= static_cast<const A*>(p.dlse)[i];
    static_cast<A*>(p.delta)[i] = delta;
    return RowState<A>{log2_lse(static_cast<const A*>(p.lse)[i]), delta};
  };
  const int num_blocks = begin_grad_rows<U, T>(p, text, task.rows, x, row_at, state, [&](QueryRow row) {
    return keys_seen(p, text, row.query + text.offset);
  });
  const Span positions = row_positions(text, task.first_row, task.rows);
  const TileList tiles = tile_list(p, text, positions.begin, positions.end - 1);
  for (int64_t u = 0; u < count(tiles); ++u) {
    const int64_t index = tile_at(tiles, u);
    const auto tile =
        key_tile<U, T>(p, text, task.kv_head, index, task.packed, true, kNoReadAhead, x.staged, {});
    query_grad_tile<U, T>(p, text, task.kv_head, index * kTile, tile, num_blocks, dbias, x);
  }
  for (int64_t f = 0; f < task.rows; ++f) {
    const QueryRow row = row_at(f);
    store_row(x.dq + f * padded_columns<U>(p.head_dim), static_cast<A>(p.softmax_scale), p.head_dim,
              row_of<T>(p.dq, text.batch, text.q_begin + row.query, row.head));
  }
}

}  // namespace lck::LCK_ISA
