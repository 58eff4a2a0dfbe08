// Backward of windowed attention, in two passes without atomics: each of dq, dk and dv is written by one
// task. Included only by files that are compiled once per instruction set.
//
// backward_queries: query rows > key tiles > blocks of rows: S = Q K^T, dP = dO V^T, dS = P (dP - delta),
//   dQ += dS K; writes delta and adds to dbias.
// backward_keys: key rows > heads of the group > query tiles > blocks of key rows: the same products
// transposed,
//   S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q.
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

template <typename U, typename T>
void backward_queries_task(const AttentionParams& p, const QueryTask& task, const void* packed,
                           int64_t num_tiles, int64_t bias_slot, void* scratch) {
  using A = AccOf<U>;
  Arena arena{static_cast<char*>(scratch)};
  const QueryGradScratch<U> x = QueryGradScratch<U>::of(&arena, p);
  const Text& text = p.texts[task.text];
  const int64_t depth = units<U>(p.head_dim), depth_v = units<U>(p.head_dim_v);
  const int64_t columns_q = padded_columns<U>(p.head_dim), tile_bytes = KeyTile<U>::bytes(p);
  const auto rule = ScoreRule<A>::of(p, false);
  A* dbias = p.dbias ? static_cast<A*>(p.dbias) + bias_slot * p.num_heads * p.bias_len : nullptr;

  int num_blocks = 0;
  for (int64_t f = 0; f < task.rows; ++num_blocks) {
    RowBlock& block = x.blocks[num_blocks];
    block.rows = 0;
    const int64_t first = f;
    const int64_t stride = staged_units<U>(p.head_dim), stride_v = staged_units<U>(p.head_dim_v);
    for (; f < task.rows && block.rows < kRows; ++f) {
      const QueryRow row = query_row(p, text, task.kv_head, task.first_row + f);
      const int64_t i = lse_index(p, text, row), query = text.q_begin + row.query;
      const A lse = static_cast<const A*>(p.lse)[i];
      const bool sees_nothing = lse == -kInf<A>;
      const T* dout = row_of<const T>(p.dout, text.batch, query, row.head);
      A delta = row_dot<A>(dout, row_of<const T>(p.out, text.batch, query, row.head), p.head_dim_v);
      if (p.dlse) delta -= static_cast<const A*>(p.dlse)[i];
      static_cast<A*>(p.delta)[i] = delta;
      x.delta[f] = delta;
      x.lse[f] = sees_nothing ? kInf<A> : lse * static_cast<A>(kLog2E);
      block.add(p, text, row, sees_nothing);
      stage_row<U>(row_of<const T>(p.q, text.batch, query, row.head), p.head_dim,
                   x.staged + (f - first) * stride);
    }
    pack_block<U>(x.staged, stride, block.rows, depth, x.q + first * depth);
    for (int r = 0; r < block.rows; ++r) {
      const int64_t query = text.q_begin + block.row[r].query;
      stage_row<U>(row_of<const T>(p.dout, text.batch, query, block.row[r].head), p.head_dim_v,
                   x.staged + r * stride_v);
    }
    pack_block<U>(x.staged, stride_v, block.rows, depth_v, x.dout + first * depth_v);
  }
  for (int64_t i = 0; i < num_blocks * kRows * columns_q; i += kLanes<A>) store(Vec<A>{}, x.dq + i);

  const Span positions = row_positions(text, task.first_row, task.rows);
  const TileList tiles = tile_list(p, text, positions.begin, positions.end - 1);
  for (int64_t u = 0; u < count(tiles); ++u) {
    const int64_t n0 = tile_at(tiles, u) * kTile,
                  place = task.kv_head * num_tiles + text.first_tile + tile_at(tiles, u);
    const auto tile = KeyTile<U>::at(p, static_cast<const char*>(packed) + place * tile_bytes);
    bool keys_packed = false;
    for (int b = 0; b < num_blocks; ++b) {
      const RowBlock& block = x.blocks[b];
      const Span columns = block.columns<A>(n0);
      if (empty(columns)) continue;
      if (!keys_packed) {
        stage_keys<U, T>(p, text, p.k, task.kv_head, p.head_dim, n0, x.staged, [](int, bool, bool) {});
        pack_along<U>(x.staged, p.head_dim, x.keys);
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

  for (int64_t f = 0; f < task.rows; ++f) {
    const QueryRow row = query_row(p, text, task.kv_head, task.first_row + f);
    store_row(x.dq + f * columns_q, static_cast<A>(p.softmax_scale), p.head_dim,
              row_of<T>(p.dq, text.batch, text.q_begin + row.query, row.head));
  }
}

// One query tile of a head as operands of the transposed products.
template <typename U>
struct QueryTile {
  UnitOf<U>*q_across, *dout_across, *q_along, *dout_along;
  AccOf<U>*lse, *delta;  // (kTile); lse times log2(e), +inf where the row sees nothing
  uint8_t* bad_dout;     // (kTile)
  bool special;          // some dout is not finite
};

template <typename U>
struct KeyGradScratch {
  using A = AccOf<U>;
  UnitOf<U>* staged;  // (kTile, staged units of the longer head dim)
  UnitOf<U>*k, *v;    // A operands of all blocks
  A *dk, *dv;         // (rows, columns)
  A *s, *dp;          // (kRows, kTile)
  A *tanh, *keep;     // (kTile)
  UnitOf<U>*probs, *ds;
  uint8_t *hidden, *bad_key, *bad_value;  // (rows)
  Span* queries;                          // (rows), positions that see the key
  QueryTile<U> tile;

  static KeyGradScratch of(Arena* arena, const AttentionParams& p) {
    KeyGradScratch x;
    constexpr int64_t rows = round_up(kKeyTileRows, kRows);
    const int64_t longer = larger_of(staged_units<U>(p.head_dim), staged_units<U>(p.head_dim_v));
    x.staged = arena->take<UnitOf<U>>(kTile * longer);
    x.k = arena->take<UnitOf<U>>(rows * units<U>(p.head_dim));
    x.v = arena->take<UnitOf<U>>(rows * units<U>(p.head_dim_v));
    x.dk = arena->take<A>(rows * padded_columns<U>(p.head_dim));
    x.dv = arena->take<A>(rows * padded_columns<U>(p.head_dim_v));
    x.s = arena->take<A>(kRows * kTile);
    x.dp = arena->take<A>(kRows * kTile);
    x.tanh = arena->take<A>(kTile);
    x.keep = arena->take<A>(kTile);
    if constexpr (U::kDepth == 1) {
      x.probs = x.s, x.ds = x.dp;
    } else {
      x.probs = arena->take<UnitOf<U>>(kRows * kTile / U::kDepth);
      x.ds = arena->take<UnitOf<U>>(kRows * kTile / U::kDepth);
    }
    x.hidden = arena->take<uint8_t>(rows);
    x.bad_key = arena->take<uint8_t>(rows);
    x.bad_value = arena->take<uint8_t>(rows);
    x.queries = arena->take<Span>(rows);
    x.tile.q_across = arena->take<UnitOf<U>>(across_units<U>(p.head_dim));
    x.tile.dout_across = arena->take<UnitOf<U>>(across_units<U>(p.head_dim_v));
    x.tile.q_along = arena->take<UnitOf<U>>(along_units<U>(p.head_dim));
    x.tile.dout_along = arena->take<UnitOf<U>>(along_units<U>(p.head_dim_v));
    x.tile.lse = arena->take<A>(kTile);
    x.tile.delta = arena->take<A>(kTile);
    x.tile.bad_dout = arena->take<uint8_t>(kTile);
    return x;
  }
};

// Packs queries [i0, i0 + kTile) of a head; rows that are not finite are zero in the panels along.
template <typename U, typename T>
void pack_query_tile(const AttentionParams& p, const Text& text, int64_t head, int64_t i0, UnitOf<U>* staged,
                     QueryTile<U>* tile) {
  using A = AccOf<U>;
  const int64_t count = smaller(kTile, text.q_len - i0);
  const auto stage = [&](const HeadsTensor& x, int64_t dim, UnitOf<U>* across, UnitOf<U>* along,
                         uint8_t* bad) {
    const int64_t stride = staged_units<U>(dim);
    bool finite[kTile];
    bool all = true;
    for (int n = 0; n < kTile; ++n) {
      finite[n] = true;
      if (n < count) {
        finite[n] = stage_row<U>(row_of<const T>(x, text.batch, text.q_begin + i0 + n, head), dim,
                                 staged + n * stride);
      } else {
        zero_row<U>(staged + n * stride, stride);
      }
      all &= finite[n];
      if (bad) bad[n] = !finite[n];
    }
    pack_across<U>(staged, dim, across);
    for (int n = 0; n < kTile; ++n) {
      if (!finite[n]) zero_row<U>(staged + n * stride, stride);
    }
    pack_along<U>(staged, dim, along);
    return all;
  };
  stage(p.q, p.head_dim, tile->q_across, tile->q_along, nullptr);
  tile->special = !stage(p.dout, p.head_dim_v, tile->dout_across, tile->dout_along, tile->bad_dout);
  for (int n = 0; n < kTile; ++n) {
    tile->lse[n] = kInf<A>, tile->delta[n] = 0;
    if (n >= count) continue;
    const int64_t i = lse_index(p, text, {head, i0 + n});
    const A lse = static_cast<const A*>(p.lse)[i];
    if (lse != -kInf<A>) tile->lse[n] = lse * static_cast<A>(kLog2E);
    tile->delta[n] = static_cast<const A*>(p.delta)[i];
  }
}

// P^T (for dv) and dS^T of one key row: s and dp in, probabilities in s and ds in dp out.
template <typename U>
inline void key_grad_row(const AttentionParams& p, const KeyGradScratch<U>& x, const Text& text, int64_t head,
                         int64_t key, int64_t row, int r, int64_t i0, int first, int stop,
                         const ScoreRule<AccOf<U>>& rule) {
  using A = AccOf<U>;
  constexpr int L = kLanes<A>;
  A* s = x.s + r * kTile;
  A* dp = x.dp + r * kTile;
  const int64_t position = i0 + text.offset;
  rule.apply(s, first, stop, head, position - key, x.tanh);
  if (p.dropout) dropout_column(p, text, head, position, key, x.keep);
  const Span queries = x.queries[row];
  const VisibleKeys seen{{queries.begin - text.offset, queries.end - text.offset}, {0, 0}};
  auto mask = ColumnMask<A>::of(seen, i0);
  mask.sink_end = mask.sink_begin = 0;
  const bool whole = mask.window_begin <= first && stop <= mask.window_end;
  const bool special = x.bad_key[row] || x.bad_value[row] || x.tile.special || p.scattered;
  A hidden[kTile];  // scattered segments: 1 where the query is in another one
  if (p.scattered) {
    const int32_t* numbers = p.segments + text.batch * p.seqlen_k;
    for (int c = first; c < stop; ++c) {
      const int64_t at = position + c;
      hidden[c] = at < 0 || at >= text.bounds.num_keys || numbers[at] != numbers[key];
    }
  }
  for (int c = first; c < stop; c += L) {
    Vec<A> t = load_bytes<Vec<A>>(s + c);
    Vec<A> grad = load_bytes<Vec<A>>(dp + c);
    if (x.bad_key[row]) t = splat(kNan<A>);
    if (x.bad_value[row]) grad = splat(kNan<A>);
    Vec<A> e = exp2(t - load_bytes<Vec<A>>(x.tile.lse + c));
    Vec<A> kept = e;
    if (p.dropout) {
      const Vec<A> keep = load_bytes<Vec<A>>(x.keep + c);
      grad *= keep;
      kept *= keep;
    }
    grad = e * (grad - load_bytes<Vec<A>>(x.tile.delta + c));
    if (!whole || special) {
      VecInt<A> visible = mask.lanes(c);
      if (p.scattered) visible &= load_bytes<Vec<A>>(hidden + c) == A{0};
      if (x.tile.special) {
        for (int i = 0; i < L; ++i) kept[i] = x.tile.bad_dout[c + i] ? kNan<A> : kept[i];
      }
      // A row whose lse is +inf here sees nothing.
      visible &= load_bytes<Vec<A>>(x.tile.lse + c) != kInf<A>;
      grad = visible ? grad : Vec<A>{};
      kept = visible ? kept : Vec<A>{};
    }
    store(kept, s + c);
    store(grad, dp + c);
  }
  if (p.softcap) uncap_row(x.tanh, first, stop, dp);
  store_units<U>(s, first, stop, x.probs + r * (kTile / U::kDepth));
  store_units<U>(dp, first, stop, x.ds + r * (kTile / U::kDepth));
}

template <typename U, typename T>
void backward_keys_task(const AttentionParams& p, const KeyTask& task, void* scratch) {
  using A = AccOf<U>;
  constexpr int L = kLanes<A>;
  Arena arena{static_cast<char*>(scratch)};
  KeyGradScratch<U> x = KeyGradScratch<U>::of(&arena, p);
  const Text& text = p.texts[task.text];
  const int64_t group = p.num_heads / p.num_kv_heads;
  const int64_t depth = units<U>(p.head_dim), depth_v = units<U>(p.head_dim_v);
  const int64_t columns_k = padded_columns<U>(p.head_dim), columns_v = padded_columns<U>(p.head_dim_v);
  const int64_t rows = smaller(kKeyTileRows, text.bounds.num_keys - task.first_key);
  const auto rule = ScoreRule<A>::of(p, true);
  const uint8_t* mask = p.kv_mask ? p.kv_mask + text.batch * p.seqlen_k + text.k_begin : nullptr;
  const Span valid = valid_keys(text.bounds), all_queries{text.offset, text.offset + text.q_len};

  // Rows: which queries see them, K and V as A operands.
  const auto pack = [&](const HeadsTensor& y, int64_t dim, UnitOf<U>* operand, uint8_t* bad) {
    const int64_t stride = staged_units<U>(dim), row_units = units<U>(dim);
    for (int64_t f = 0; f < rows; f += kRows) {
      const int height = static_cast<int>(smaller(kRows, rows - f));
      for (int r = 0; r < height; ++r) {
        const int64_t j = task.first_key + f + r;
        UnitOf<U>* to = x.staged + r * stride;
        bad[f + r] = 0;
        if (!x.hidden[f + r]) {
          bad[f + r] = !stage_row<U>(row_of<const T>(y, text.batch, text.k_begin + j, task.kv_head), dim, to);
        }
        if (x.hidden[f + r] || bad[f + r]) zero_row<U>(to, stride);
      }
      pack_block<U>(x.staged, stride, height, row_units, operand + f * row_units);
    }
  };
  Span seen_by{0, 0};
  for (int64_t f = 0; f < rows; ++f) {
    const int64_t j = task.first_key + f;
    x.hidden[f] = j < valid.begin || j >= valid.end || (mask && !mask[j]);
    const Span segment = segment_of(p, text, j);
    Span queries = intersect(all_queries, visible_queries(p.window, text.bounds, segment, j));
    if (p.segment_spans) queries = intersect(queries, segment);
    x.queries[f] = x.hidden[f] ? Span{0, 0} : queries;
    seen_by = hull(seen_by, x.queries[f]);
  }
  pack(p.k, p.head_dim, x.k, x.bad_key);
  pack(p.v, p.head_dim_v, x.v, x.bad_value);
  for (int64_t i = 0; i < round_up(rows, kRows) * columns_k; i += L) store(Vec<A>{}, x.dk + i);
  for (int64_t i = 0; i < round_up(rows, kRows) * columns_v; i += L) store(Vec<A>{}, x.dv + i);

  const Span query_tiles =
      empty(seen_by) ? Span{0, 0} : tiles_of({seen_by.begin - text.offset, seen_by.end - text.offset});
  for (int64_t g = 0; g < group; ++g) {
    const int64_t head = task.kv_head * group + g;
    for (int64_t t = query_tiles.begin; t < query_tiles.end; ++t) {
      const int64_t i0 = t * kTile;
      pack_query_tile<U, T>(p, text, head, i0, x.staged, &x.tile);
      for (int64_t f = 0; f < rows; f += kRows) {
        const int height = static_cast<int>(smaller(kRows, rows - f));
        Span queries{0, 0};
        for (int r = 0; r < height; ++r) queries = hull(queries, x.queries[f + r]);
        const int64_t p0 = i0 + text.offset;
        queries = intersect(queries, {p0, p0 + kTile});
        if (empty(queries)) continue;
        const int first = static_cast<int>((queries.begin - p0) / L * L);
        const int stop = static_cast<int>(round_up(queries.end - p0, L));
        multiply_across<U>(height, x.k + f * depth, x.tile.q_across, p.head_dim, x.s, first, stop);
        multiply_across<U>(height, x.v + f * depth_v, x.tile.dout_across, p.head_dim_v, x.dp, first, stop);
        for (int r = 0; r < height; ++r) {
          key_grad_row<U>(p, x, text, head, task.first_key + f + r, f + r, r, i0, first, stop, rule);
        }
        multiply_along<U>(height, x.probs, x.tile.dout_along, first, stop, x.dv + f * columns_v, columns_v);
        multiply_along<U>(height, x.ds, x.tile.q_along, first, stop, x.dk + f * columns_k, columns_k);
      }
    }
  }

  for (int64_t f = 0; f < rows; ++f) {
    const int64_t j = text.k_begin + task.first_key + f;
    store_row(x.dk + f * columns_k, static_cast<A>(p.softmax_scale), p.head_dim,
              row_of<T>(p.dk, text.batch, j, task.kv_head));
    store_row(x.dv + f * columns_v, A{1}, p.head_dim_v, row_of<T>(p.dv, text.batch, j, task.kv_head));
  }
}

}  // namespace lck::LCK_ISA
