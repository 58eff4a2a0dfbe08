// Forward of windowed attention: key tiles > blocks of rows > S = Q K^T, online softmax, O += P V.
// Included only by files that are compiled once per instruction set.
#pragma once

#include "cpu/attention/kernel/key_tile.h"
#include "cpu/attention/kernel/score.h"
#include "cpu/attention/kernels.h"

namespace lck::LCK_ISA {

inline constexpr int kMostBlocks = (kMostTileRows + kRows - 1) / kRows;

template <typename U>
struct ForwardScratch {
  using A = AccOf<U>;
  UnitOf<U>* staged;  // (kTile, staged units)
  UnitOf<U>* q;       // (kMostTileRows / kRows blocks, units, kRows)
  A* out;             // (rows, columns)
  A* row_base;        // (rows), subtracted from scores before exp
  A* row_sum;         // (rows, lanes)
  uint8_t* poisoned;  // (rows)
  A* s;               // (kRows, kTile)
  UnitOf<U>* probs;   // (kRows, kTile / kDepth); s itself where a unit is an element
  A* keep;            // (kTile)
  A* penalty;         // (kTile)
  RowBlock* blocks;
  KeyTile<U> tile;

  static ForwardScratch of(Arena* arena, const AttentionParams& p) {
    ForwardScratch x;
    const int64_t rows = kMostBlocks * kRows;
    const int64_t longer = larger_of(staged_units<U>(p.head_dim), staged_units<U>(p.head_dim_v));
    x.staged = arena->take<UnitOf<U>>(kTile * longer);
    x.q = arena->take<UnitOf<U>>(rows * units<U>(p.head_dim));
    x.out = arena->take<A>(rows * padded_columns<U>(p.head_dim_v));
    x.row_base = arena->take<A>(rows);
    x.row_sum = arena->take<A>(rows * kLanes<A>);
    x.poisoned = arena->take<uint8_t>(rows);
    x.s = arena->take<A>(kRows * kTile);
    if constexpr (U::kDepth == 1) {
      x.probs = x.s;
    } else {
      x.probs = arena->take<UnitOf<U>>(kRows * kTile / U::kDepth);
    }
    x.keep = arena->take<A>(kTile);
    x.penalty = arena->take<A>(kTile);
    x.blocks = arena->take<RowBlock>(kMostBlocks);
    x.tile = KeyTile<U>::of(arena, p, false);
    return x;
  }
};

// Masks the scores (s) of one row; sets the poisoned flag if the row sees a value that is not finite.
template <typename U>
inline void mask_row(const AttentionParams& p, const Sequence& sequence, const KeyTile<U>& tile,
                     const RowBlock& block, int r, int64_t n0, Span columns, AccOf<U>* s, AccOf<U>* scratch,
                     uint8_t* poisoned) {
  using A = AccOf<U>;
  const auto mask = ColumnMask<A>::of(block.seen[r], n0);
  const bool special = *tile.special || p.scattered;
  const A* penalty =
      special ? row_penalty(p, sequence, tile.penalty, n0, block.position[r], scratch) : nullptr;
  for (int c = static_cast<int>(columns.begin); c < columns.end; c += kLanes<A>) {
    if (!special && mask.window_begin <= c && c + kLanes<A> <= mask.window_end) continue;
    Vec<A> t = load_bytes<Vec<A>>(s + c);
    if (special) {
      const Vec<A> cost = load_bytes<Vec<A>>(penalty + c);
      t = cost < A{0} ? cost : t + cost;
    }
    store(mask.lanes(c) ? t : splat(-kInf<A>), s + c);
  }
  if (!special || !poisoned) return;
  for (int64_t c = columns.begin; c < columns.end; ++c) {
    const bool seen =
        (c >= mask.window_begin && c < mask.window_end) || (c >= mask.sink_begin && c < mask.sink_end);
    *poisoned |= seen && tile.bad_value[c] && !(penalty[c] < 0);
  }
}

// The largest scale * s of each lane in the columns [first, stop), without NaN; -inf if there is none.
// scale > 0.
template <typename A>
inline Vec<A> row_largest(const A* s, int first, int stop, A scale) {
  constexpr int L = kLanes<A>;
  Vec<A> most = splat(-kInf<A>), most2 = most;
  int c = first;
  for (; c + 2 * L <= stop; c += 2 * L) {
    const Vec<A> a = load_bytes<Vec<A>>(s + c), b = load_bytes<Vec<A>>(s + c + L);
    most = lane_max(a, most);
    most2 = lane_max(b, most2);
  }
  if (c < stop) {
    most = lane_max(load_bytes<Vec<A>>(s + c), most);
  }
  return lane_max(most2, most) * scale;
}

// s = exp(scale * s - base) in the columns [first, stop); the sum of each lane.
template <typename A>
inline Vec<A> exp_row(A* s, int first, int stop, A scale, A base) {
  constexpr int L = kLanes<A>;
  Vec<A> total{}, total2{};
  int c = first;
  for (; c + 2 * L <= stop; c += 2 * L) {
    const Vec<A> a = exp(load_bytes<Vec<A>>(s + c) * scale - base);
    const Vec<A> b = exp(load_bytes<Vec<A>>(s + c + L) * scale - base);
    total += a;
    total2 += b;
    store(a, s + c);
    store(b, s + c + L);
  }
  if (c < stop) {
    const Vec<A> a = exp(load_bytes<Vec<A>>(s + c) * scale - base);
    total += a;
    store(a, s + c);
  }
  return total + total2;
}

// Larger scores are rounded before the base is subtracted, as those of ScoreRule are: otherwise equal scores
// in two tiles would differ by more than 1e-5.
inline constexpr double kFusedLimit = 256;

// The base of a row is raised only if a score exceeds it by more than this: e^4 costs no accuracy, and rows
// are rescaled about once. Source: FlashAttention-4.
inline constexpr int kBaseSlack = 4;

// Rescales the row's state to a new base.
template <typename A>
[[gnu::noinline]] void raise_base(A base, A* row_base, A* row_sum, A* out, int64_t out_columns) {
  constexpr int L = kLanes<A>;
  const A before = *row_base;
  *row_base = base;
  if (before == -kInf<A>) return;
  const Vec<A> shrink = exp(splat(before) - base);
  store(load_bytes<Vec<A>>(row_sum) * shrink, row_sum);
  for (int64_t c = 0; c < out_columns; c += L) store(load_bytes<Vec<A>>(out + c) * shrink, out + c);
}

// Replaces the scores (scale * s, columns [first, stop)) of a block's rows by exp(score - base) and updates
// the rows' states.
template <typename A>
[[gnu::noinline]] void softmax_rows(A* s, int rows, int first, int stop, A scale, A* row_base, A* row_sum,
                                    A* out, int64_t out_columns) {
  constexpr int L = kLanes<A>;
  for (int r = 0; r < rows; ++r, s += kTile, ++row_base, row_sum += L, out += out_columns) {
    const Vec<A> most = row_largest(s, first, stop, scale);
    if (any<A>(most > *row_base + A{kBaseSlack})) {
      raise_base(largest<A>(most), row_base, row_sum, out, out_columns);
    }
    const A base = *row_base, limit = static_cast<A>(kFusedLimit);
    A factor = scale;
    if (scale != 1 && (base > limit || base < -limit)) [[unlikely]] {
      for (int c = first; c < stop; c += L) store(load_bytes<Vec<A>>(s + c) * scale, s + c);
      factor = 1;
    }
    const Vec<A> sum = exp_row(s, first, stop, factor, base == -kInf<A> ? A{0} : base);
    store(load_bytes<Vec<A>>(row_sum) + sum, row_sum);
  }
}

// Index of the state of row f of the blocks from first_block on.
inline int64_t state_row(int first_block, int64_t f) {
  return int64_t{first_block} * kRows + f;
}

// Rows [0, count) in the blocks from first_block on: Q as A operands, empty softmax states. row_at(f): the
// query of row f; sees(query): its visible keys. out: the rows of the results, prefetched if not null.
// Returns the number of blocks.
template <typename U, typename T, typename RowAt, typename Sees>
int begin_rows(const AttentionParams& p, const Sequence& sequence, int first_block, int64_t count,
               bool with_sinks, int64_t near_heads, const HeadsTensor* out, const ForwardScratch<U>& x,
               RowAt row_at, Sees sees) {
  using A = AccOf<U>;
  constexpr int L = kLanes<A>;
  const int64_t depth = units<U>(p.head_dim), stride = staged_units<U>(p.head_dim);
  const A* sinks = with_sinks ? static_cast<const A*>(p.sink_logits) : nullptr;
  const int64_t near = near_dim(p.q, p.head_dim, near_heads);
  int num_blocks = 0;
  for (int64_t f = 0; f < count; ++num_blocks) {
    RowBlock& block = x.blocks[first_block + num_blocks];
    block.rows = 0;
    const int64_t first = f;
    for (; f < count && block.rows < kRows; ++f) {
      const int64_t i = state_row(first_block, f);
      const QueryRow row = row_at(f);
      block.add(row, row.query + sequence.offset, sees(row));
      const T* q = row_of<const T>(p.q, sequence.batch, sequence.q_begin + row.query, row.head);
      prefetch_row(q + kPrefetchRows * p.q.row_stride, near);
      if (out)
        prefetch_row(row_of<const T>(*out, sequence.batch, sequence.q_begin + row.query, row.head),
                     p.head_dim_v);
      stage_row<U>(q, p.head_dim, x.staged + (f - first) * stride);
      const A sink = sinks ? sinks[row.head] : -kInf<A>;
      x.row_base[i] = sink;
      store(Vec<A>{}, x.row_sum + i * L);
      x.row_sum[i * L] = sink == -kInf<A> ? A{0} : sink - sink + 1;  // NaN if it is +inf or NaN
      x.poisoned[i] = 0;
    }
    pack_block<U>(x.staged, stride, block.rows, depth, x.q + state_row(first_block, first) * depth);
  }
  const int64_t columns = padded_columns<U>(p.head_dim_v);
  A* sums = x.out + state_row(first_block, 0) * columns;
  for (int64_t i = 0; i < num_blocks * kRows * columns; i += L) store(Vec<A>{}, sums + i);
  return num_blocks;
}

// Replaces the products of a block's rows and the tile's keys (s, columns [first, stop)) by probabilities
// relative to the rows' bases and updates the rows' states. f: index of the state of the block's first row.
template <typename U>
void probabilities(const AttentionParams& p, const Sequence& sequence, int64_t n0, const KeyTile<U>& tile,
                   const RowBlock& block, int64_t f, Span columns, AccOf<U>* s, const ForwardScratch<U>& x) {
  using A = AccOf<U>;
  const int first = static_cast<int>(columns.begin), stop = static_cast<int>(columns.end);
  const auto rule = ScoreRule<A>::of(p);
  const bool special = *tile.special || p.scattered, masked = special || !block.sees_all(n0, columns);
  const bool plain = !special && rule.plain();
  for (int r = 0; r < block.rows && (masked || !plain); ++r) {
    A* row = s + r * kTile;
    if (!plain) rule.apply(row, first, stop, block.row[r].head, n0 - block.position[r], nullptr);
    if (masked) mask_row<U>(p, sequence, tile, block, r, n0, columns, row, x.penalty, x.poisoned + f + r);
  }
  const int64_t out_columns = padded_columns<U>(p.head_dim_v);
  softmax_rows<A>(s, block.rows, first, stop, plain ? rule.scale : A{1}, x.row_base + f,
                  x.row_sum + f * kLanes<A>, x.out + f * out_columns, out_columns);
  for (int r = 0; r < block.rows && p.dropout; ++r) {
    A* row = s + r * kTile;
    dropout_row(p, sequence, block.row[r].head, block.position[r], n0, x.keep);
    for (int c = first; c < stop; ++c) row[c] = x.keep[c] != 0 ? row[c] * x.keep[c] : A{0};
  }
}

// Blocks [first_block, stop_block) against the key tile from key n0.
template <typename U>
void attend_tile(const AttentionParams& p, const Sequence& sequence, int64_t n0, const KeyTile<U>& tile,
                 int first_block, int stop_block, const ForwardScratch<U>& x) {
  using A = AccOf<U>;
  const int64_t depth = units<U>(p.head_dim), out_columns = padded_columns<U>(p.head_dim_v);
  for (int b = first_block; b < stop_block; ++b) {
    const RowBlock& block = x.blocks[b];
    const Span columns = block.columns<A>(n0);
    if (empty(columns)) continue;
    const int first = static_cast<int>(columns.begin), stop = static_cast<int>(columns.end);
    const int64_t f = state_row(b, 0);
    multiply_across<U>(block.rows, x.q + f * depth, tile.k, p.head_dim, x.s, first, stop);
    probabilities<U>(p, sequence, n0, tile, block, f, columns, x.s, x);
    for (int r = 0; r < block.rows; ++r) {
      store_units<U>(x.s + r * kTile, first, stop, x.probs + r * (kTile / U::kDepth));
    }
    multiply_along<U>(block.rows, x.probs, tile.v, first, stop, x.out + f * out_columns, out_columns);
  }
}

// The factor that normalizes a row's accumulator, and the row's lse (natural log).
template <typename A>
struct RowResult {
  A factor, lse;
};
template <typename U>
inline RowResult<AccOf<U>> row_result(const ForwardScratch<U>& x, int64_t f) {
  using A = AccOf<U>;
  const A total = sum<A>(load_bytes<Vec<A>>(x.row_sum + f * kLanes<A>));
  if (total == 0) return {x.poisoned[f] ? kNan<A> : A{0}, -kInf<A>};
  return {x.poisoned[f] ? kNan<A> : 1 / total, x.row_base[f] + log(total)};
}

}  // namespace lck::LCK_ISA
