// Query rows of the backward with their lse and delta, and P and dS of a block of them against a key tile:
// S = Q K^T, dP = dO V^T, dS = P (dP - delta). Included only by files that are compiled once per instruction
// set.
#pragma once

#include "cpu/attention/kernel/forward.h"

namespace lck::LCK_ISA {

// State of a row in the backward: its lse, +inf if it sees no key, and its delta.
template <typename A>
struct RowState {
  A lse, delta;
};
template <typename A>
inline A state_lse(A lse) {
  return lse == -kInf<A> ? kInf<A> : lse;
}

// Up to kTile queries of a head in blocks of kRows.
template <typename U>
struct GradRows {
  using A = AccOf<U>;
  UnitOf<U>*q, *dout;         // A operands
  A *lse, *delta;             // (rows)
  uint8_t *bad_q, *bad_dout;  // (rows) 1: not finite
  RowBlock* blocks;
  int num_blocks;

  static GradRows of(Arena* arena, const AttentionParams& p) {
    GradRows x{};
    const int64_t padded = round_up(kTile, kRows);
    x.q = arena->take<UnitOf<U>>(padded * units<U>(p.head_dim));
    x.dout = arena->take<UnitOf<U>>(padded * units<U>(p.head_dim_v));
    x.lse = arena->take<A>(padded);
    x.delta = arena->take<A>(padded);
    x.bad_q = arena->take<uint8_t>(padded);
    x.bad_dout = arena->take<uint8_t>(padded);
    x.blocks = arena->take<RowBlock>(padded / kRows);
    return x;
  }
};

// Loads queries [i0, i0 + count) of a head into x. state(query): its RowState; sees(query): its visible keys,
// empty for a row without any. staged: memory for kRows rows.
template <typename U, typename T, typename State, typename Sees>
void begin_grad_rows(const AttentionParams& p, const Sequence& sequence, int64_t head, int64_t i0,
                     int64_t count, UnitOf<U>* staged, GradRows<U>* x, State state, Sees sees) {
  using A = AccOf<U>;
  x->num_blocks = 0;
  for (int64_t f = 0; f < count; ++x->num_blocks) {
    RowBlock& block = x->blocks[x->num_blocks];
    block.rows = 0;
    const int64_t first = f;
    for (; f < count && block.rows < kRows; ++f) {
      const QueryRow row{head, i0 + f};
      const RowState<A> at = state(row);
      x->lse[f] = at.lse, x->delta[f] = at.delta;
      block.add(row, row.query + sequence.offset, at.lse == kInf<A> ? VisibleKeys{} : sees(row));
    }
    const auto pack = [&](const HeadsTensor& from, int64_t dim, UnitOf<U>* operand, uint8_t* bad) {
      const int64_t stride = staged_units<U>(dim);
      for (int r = 0; r < block.rows; ++r) {
        const T* row = row_of<const T>(from, sequence.batch, sequence.q_begin + i0 + first + r, head);
        prefetch_row(row + kPrefetchRows * from.row_stride, dim);
        bad[r] = !stage_row<U>(row, dim, staged + r * stride);
      }
      pack_block<U>(staged, stride, block.rows, units<U>(dim), operand + first * units<U>(dim));
    };
    pack(p.q, p.head_dim, x->q, x->bad_q + first);
    pack(p.dout, p.head_dim_v, x->dout, x->bad_dout + first);
  }
}

// Memory for one row.
template <typename A>
struct GradRowScratch {
  A *tanh, *keep, *penalty;  // (kTile)

  static GradRowScratch of(Arena* arena) {
    return {arena->take<A>(kTile), arena->take<A>(kTile), arena->take<A>(kTile)};
  }
};

// ds times the derivative of cap * tanh(s / cap); masked elements stay 0.
template <typename A>
inline void uncap_row(const A* tanh_row, int first, int stop, A* ds) {
  for (int c = first; c < stop; c += kLanes<A>) {
    const Vec<A> t = load_bytes<Vec<A>>(tanh_row + c), grad = load_bytes<Vec<A>>(ds + c);
    store(grad == A{0} ? grad : grad * (A{1} - t * t), ds + c);
  }
}

// One row: products q.k in s and dP in dp become P after dropout and dS. Hidden columns of [first, stop)
// become 0. f: index of the row in x.
template <typename U>
void grad_row(const AttentionParams& p, const Sequence& sequence, const GradRows<U>& x, const RowBlock& block,
              int r, int64_t f, int64_t n0, const KeyTile<U>& tile, Span columns, bool masked,
              const ScoreRule<AccOf<U>>& rule, const GradRowScratch<AccOf<U>>& scratch, AccOf<U>* dbias,
              AccOf<U>* s, AccOf<U>* dp) {
  using A = AccOf<U>;
  constexpr int L = kLanes<A>;
  const int first = static_cast<int>(columns.begin), stop = static_cast<int>(columns.end);
  const int64_t head = block.row[r].head, position = block.position[r];
  const bool plain = rule.plain(), special = *tile.special || p.scattered;
  if (!plain) rule.apply(s, first, stop, head, n0 - position, scratch.tanh);
  if (p.dropout) dropout_row(p, sequence, head, position, n0, scratch.keep);
  const A* penalty = nullptr;
  if (special) {
    penalty = row_penalty(p, sequence, tile.penalty, n0, position, scratch.penalty);
    for (int c = first; c < stop; ++c) dp[c] = tile.bad_value[c] ? kNan<A> : dp[c];
  }
  const auto mask = ColumnMask<A>::of(block.seen[r], n0);
  const A lse = x.lse[f], delta = x.delta[f], scale = plain ? rule.scale : A{1};
  const bool bad_dout = x.bad_dout[f];
  for (int c = first; c < stop; c += L) {
    Vec<A> t = load_bytes<Vec<A>>(s + c);
    if (plain) t = rounded(t * scale);
    if (special) t += load_bytes<Vec<A>>(penalty + c);
    Vec<A> probs = exp(t - lse), grad = load_bytes<Vec<A>>(dp + c), kept = probs;
    if (p.dropout) {
      const Vec<A> keep = load_bytes<Vec<A>>(scratch.keep + c);
      grad *= keep;
      kept *= keep;
    }
    grad = probs * (grad - delta);
    if (bad_dout) kept = splat(kNan<A>);
    if (masked) {
      VecInt<A> seen = mask.lanes(c);
      if (special) seen &= ~(load_bytes<Vec<A>>(penalty + c) < A{0});
      grad = seen ? grad : Vec<A>{};
      kept = seen ? kept : Vec<A>{};
    }
    store(grad, dp + c);
    store(kept, s + c);
  }
  if (dbias) {
    A* row = dbias + head * p.bias_len;
    add_bias_gradient(dp, first, stop, n0 - position + p.bias_center, p.bias_len, row);
  }
  if (p.softcap) uncap_row(scratch.tanh, first, stop, dp);
}

// S and dP of block b of x against columns of the key tile, whose K and V are panels across; the row stride
// is kTile elements.
template <typename U>
inline void grad_products(const AttentionParams& p, const GradRows<U>& x, int b, const KeyTile<U>& tile,
                          Span columns, AccOf<U>* s, AccOf<U>* dp) {
  const int64_t f = int64_t{b} * kRows;
  const int rows = x.blocks[b].rows, first = static_cast<int>(columns.begin),
            stop = static_cast<int>(columns.end);
  multiply_across<U>(rows, x.q + f * units<U>(p.head_dim), tile.k, p.head_dim, s, first, stop);
  multiply_across<U>(rows, x.dout + f * units<U>(p.head_dim_v), tile.v, p.head_dim_v, dp, first, stop);
}

// grad_row of each row of block b against columns of the key tile from key n0 on.
template <typename U>
void grad_block(const AttentionParams& p, const Sequence& sequence, const GradRows<U>& x, int b, int64_t n0,
                const KeyTile<U>& tile, Span columns, const GradRowScratch<AccOf<U>>& scratch,
                AccOf<U>* dbias, AccOf<U>* s, AccOf<U>* dp) {
  const RowBlock& block = x.blocks[b];
  const bool masked = *tile.special || p.scattered || !block.sees_all(n0, columns);
  const auto rule = ScoreRule<AccOf<U>>::of(p);
  for (int r = 0; r < block.rows; ++r) {
    grad_row<U>(p, sequence, x, block, r, int64_t{b} * kRows + r, n0, tile, columns, masked, rule, scratch,
                dbias, s + r * kTile, dp + r * kTile);
  }
}

}  // namespace lck::LCK_ISA
