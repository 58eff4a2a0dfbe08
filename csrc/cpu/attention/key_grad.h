// dk and dv of windowed attention: key rows > heads of the group > query tiles > blocks of key rows, the
// products of query_grad.h transposed: S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q. Included only
// by files that are compiled once per instruction set.
#pragma once

#include "cpu/attention/query_grad.h"

namespace lck::LCK_ISA {

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

// Packs queries [i0, i0 + kTile) of a head; those outside `queries` and those that see nothing are zero, and
// rows that are not finite are so in the panels along. state(query) as in begin_grad_rows.
template <typename U, typename T, typename State>
void pack_query_tile(const AttentionParams& p, const Text& text, int64_t head, int64_t i0, Span queries,
                     UnitOf<U>* staged, State state, QueryTile<U>* tile) {
  using A = AccOf<U>;
  for (int n = 0; n < kTile; ++n) {
    const bool inside = i0 + n >= queries.begin && i0 + n < queries.end;
    const RowState<A> row = inside ? state(QueryRow{head, i0 + n}) : RowState<A>{kInf<A>, 0};
    tile->lse[n] = row.lse, tile->delta[n] = row.delta;
  }
  bool all_count = true;
  for (int n = 0; n < kTile; ++n) all_count &= tile->lse[n] != kInf<A>;
  const auto stage = [&](const HeadsTensor& x, int64_t dim, UnitOf<U>* across, UnitOf<U>* along,
                         uint8_t* bad) {
    for (int n = 0; n < kTile && bad; ++n) bad[n] = 0;
    if (all_count && whole_vectors<U>(dim)) {
      const T* rows = row_of<const T>(x, text.batch, text.q_begin + i0, head);
      for (int n = 0; n < kTile; ++n) prefetch_row(rows + n * x.row_stride, dim);
      const auto load = from_rows<U, T>(rows, x.row_stride);
      if (pack_across<U>(dim, across, load)) {
        pack_along<U>(dim, along, load);
        return true;
      }
    }
    const int64_t stride = staged_units<U>(dim);
    bool finite[kTile];
    bool all = true;
    for (int n = 0; n < kTile; ++n) {
      finite[n] = true;
      if (tile->lse[n] != kInf<A>) {
        const T* row = row_of<const T>(x, text.batch, text.q_begin + i0 + n, head);
        finite[n] = stage_row<U>(row, dim, staged + n * stride);
      } else {
        zero_row<U>(staged + n * stride, stride);
      }
      all &= finite[n];
      if (bad) bad[n] = !finite[n];
    }
    pack_across<U>(dim, across, from_staged<U>(staged, dim));
    for (int n = 0; n < kTile; ++n) {
      if (!finite[n]) zero_row<U>(staged + n * stride, stride);
    }
    pack_along<U>(dim, along, from_staged<U>(staged, dim));
    return all;
  };
  stage(p.q, p.head_dim, tile->q_across, tile->q_along, nullptr);
  tile->special = !stage(p.dout, p.head_dim_v, tile->dout_across, tile->dout_along, tile->bad_dout);
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

// Keys [first_key, first_key + rows) of a text: K and V as A operands, dk = dv = 0; which are hidden. The
// spans of queries that see them are the caller's to set.
template <typename U, typename T>
void begin_key_rows(const AttentionParams& p, const Text& text, int64_t kv_head, int64_t first_key,
                    int64_t rows, const KeyGradScratch<U>& x) {
  using A = AccOf<U>;
  const uint8_t* mask = p.kv_mask ? p.kv_mask + text.batch * p.seqlen_k + text.k_begin : nullptr;
  const Span valid = valid_keys(text.bounds);
  for (int64_t f = 0; f < rows; ++f) {
    const int64_t j = first_key + f;
    x.hidden[f] = j < valid.begin || j >= valid.end || (mask && !mask[j]);
  }
  const auto pack = [&](const HeadsTensor& y, int64_t dim, UnitOf<U>* operand, uint8_t* bad) {
    const int64_t stride = staged_units<U>(dim), row_units = units<U>(dim);
    for (int64_t f = 0; f < rows; f += kRows) {
      const int height = static_cast<int>(smaller(kRows, rows - f));
      for (int r = 0; r < height; ++r) {
        UnitOf<U>* to = x.staged + r * stride;
        bad[f + r] = 0;
        if (!x.hidden[f + r]) {
          const T* row = row_of<const T>(y, text.batch, text.k_begin + first_key + f + r, kv_head);
          bad[f + r] = !stage_row<U>(row, dim, to);
        }
        if (x.hidden[f + r] || bad[f + r]) zero_row<U>(to, stride);
      }
      pack_block<U>(x.staged, stride, height, row_units, operand + f * row_units);
    }
  };
  pack(p.k, p.head_dim, x.k, x.bad_key);
  pack(p.v, p.head_dim_v, x.v, x.bad_value);
  const int64_t padded = round_up(rows, kRows);
  for (int64_t i = 0; i < padded * padded_columns<U>(p.head_dim); i += kLanes<A>) store(Vec<A>{}, x.dk + i);
  for (int64_t i = 0; i < padded * padded_columns<U>(p.head_dim_v); i += kLanes<A>) store(Vec<A>{}, x.dv + i);
}

// All key rows against the packed query tile from query i0.
template <typename U>
void key_grad_tile(const AttentionParams& p, const Text& text, int64_t head, int64_t first_key, int64_t rows,
                   int64_t i0, const KeyGradScratch<U>& x) {
  using A = AccOf<U>;
  constexpr int L = kLanes<A>;
  const int64_t depth = units<U>(p.head_dim), depth_v = units<U>(p.head_dim_v);
  const int64_t columns_k = padded_columns<U>(p.head_dim), columns_v = padded_columns<U>(p.head_dim_v);
  const auto rule = ScoreRule<A>::of(p, true);
  const int64_t p0 = i0 + text.offset;
  for (int64_t f = 0; f < rows; f += kRows) {
    const int height = static_cast<int>(smaller(kRows, rows - f));
    Span queries{0, 0};
    for (int r = 0; r < height; ++r) queries = hull(queries, x.queries[f + r]);
    queries = intersect(queries, {p0, p0 + kTile});
    if (empty(queries)) continue;
    const int first = static_cast<int>((queries.begin - p0) / L * L);
    const int stop = static_cast<int>(round_up(queries.end - p0, L));
    multiply_across<U>(height, x.k + f * depth, x.tile.q_across, p.head_dim, x.s, first, stop);
    multiply_across<U>(height, x.v + f * depth_v, x.tile.dout_across, p.head_dim_v, x.dp, first, stop);
    for (int r = 0; r < height; ++r) {
      key_grad_row<U>(p, x, text, head, first_key + f + r, f + r, r, i0, first, stop, rule);
    }
    multiply_along<U>(height, x.probs, x.tile.dout_along, first, stop, x.dv + f * columns_v, columns_v);
    multiply_along<U>(height, x.ds, x.tile.q_along, first, stop, x.dk + f * columns_k, columns_k);
  }
}

// Writes dk and dv of keys [first_key, first_key + rows).
template <typename U, typename T>
void store_key_rows(const AttentionParams& p, const Text& text, int64_t kv_head, int64_t first_key,
                    int64_t rows, const KeyGradScratch<U>& x) {
  using A = AccOf<U>;
  for (int64_t f = 0; f < rows; ++f) {
    const int64_t j = text.k_begin + first_key + f;
    store_row(x.dk + f * padded_columns<U>(p.head_dim), static_cast<A>(p.softmax_scale), p.head_dim,
              row_of<T>(p.dk, text.batch, j, kv_head));
    store_row(x.dv + f * padded_columns<U>(p.head_dim_v), A{1}, p.head_dim_v,
              row_of<T>(p.dv, text.batch, j, kv_head));
  }
}

template <typename U, typename T>
void backward_keys_task(const AttentionParams& p, const KeyTask& task, void* scratch) {
  using A = AccOf<U>;
  Arena arena{static_cast<char*>(scratch)};
  auto x = KeyGradScratch<U>::of(&arena, p);
  const Text& text = p.texts[task.text];
  const int64_t group = p.num_heads / p.num_kv_heads;
  const int64_t rows = smaller(kKeyTileRows, text.bounds.num_keys - task.first_key);
  begin_key_rows<U, T>(p, text, task.kv_head, task.first_key, rows, x);
  const Span all_queries{text.offset, text.offset + text.q_len};
  Span seen_by{0, 0};
  for (int64_t f = 0; f < rows; ++f) {
    const int64_t j = task.first_key + f;
    const Span segment = segment_of(p, text, j);
    Span queries = intersect(all_queries, visible_queries(p.window, text.bounds, segment, j));
    if (p.segment_spans) queries = intersect(queries, segment);
    x.queries[f] = x.hidden[f] ? Span{0, 0} : queries;
    seen_by = hull(seen_by, x.queries[f]);
  }
  const auto state = [&](QueryRow row) {
    const int64_t i = lse_index(p, text, row);
    return RowState<A>{log2_lse(static_cast<const A*>(p.lse)[i]), static_cast<const A*>(p.delta)[i]};
  };
  const Span tiles =
      empty(seen_by) ? Span{0, 0} : tiles_of({seen_by.begin - text.offset, seen_by.end - text.offset});
  for (int64_t head = task.kv_head * group; head < (task.kv_head + 1) * group; ++head) {
    for (int64_t i0 = tiles.begin * kTile; i0 < tiles.end * kTile; i0 += kTile) {
      pack_query_tile<U, T>(p, text, head, i0, {0, text.q_len}, x.staged, state, &x.tile);
      key_grad_tile<U>(p, text, head, task.first_key, rows, i0, x);
    }
  }
  store_key_rows<U, T>(p, text, task.kv_head, task.first_key, rows, x);
}

}  // namespace lck::LCK_ISA
