// Forward of windowed attention: key tiles > blocks of rows > S = Q K^T, online softmax, O += P V.
// Included only by files that are compiled once per instruction set.
#pragma once

#include "cpu/attention/kernel/key_tile.h"
#include "cpu/attention/kernel/score.h"
#include "cpu/attention/kernel/softmax.h"
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
  UnitOf<U>* probs;   // (kRows, kTile / kDepth)
  A* kept;            // (kRows, kTile), probabilities after dropout
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
    x.probs = arena->take<UnitOf<U>>(kRows * kTile / U::kDepth);
    x.kept = arena->take<A>(kRows * kTile);
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

// Index of the state of row f of the blocks from first_block on.
inline int64_t state_row(int first_block, int64_t f) {
  return int64_t{first_block} * kRows + f;
}

// Rows [0, count) in the blocks from first_block on: Q as A operands, empty softmax states. row_at(f): the
// query of row f; sees(query): its visible keys. out: the rows of the results, prefetched if not null.
// Returns the number of blocks.
template <typename U, typename T, typename RowAt, typename Sees>
int begin_rows(const AttentionParams& p, const Sequence& sequence, int first_block, int64_t count,
               bool with_sinks, const HeadsTensor* out, const ForwardScratch<U>& x, RowAt row_at, Sees sees) {
  using A = AccOf<U>;
  constexpr int L = kLanes<A>;
  const int64_t depth = units<U>(p.head_dim), stride = staged_units<U>(p.head_dim);
  const A* sinks = with_sinks ? static_cast<const A*>(p.sink_logits) : nullptr;
  int num_blocks = 0;
  for (int64_t f = 0; f < count; ++num_blocks) {
    RowBlock& block = x.blocks[first_block + num_blocks];
    block.rows = 0;
    block.bases = {sinks == nullptr, false};
    const int64_t first = f;
    for (; f < count && block.rows < kRows; ++f) {
      const int64_t i = state_row(first_block, f);
      const QueryRow row = row_at(f);
      block.add(row, row.query + sequence.offset, sees(row));
      const T* q = row_of<const T>(p.q, sequence.batch, sequence.q_begin + row.query, row.head);
      prefetch_row(q + kPrefetchRows * p.q.row_stride, p.head_dim);
      if (out)
        prefetch_row(row_of<const T>(*out, sequence.batch, sequence.q_begin + row.query, row.head),
                     p.head_dim_v);
      stage_row<U>(q, p.head_dim, x.staged + (f - first) * stride);
      const A sink = sinks ? sinks[row.head] : -kInf<A>;
      x.row_base[i] = sink;
      block.bases.unset |= sink == -kInf<A>;
      block.bases.far |= is_far(sink);
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

// The products of a block's rows and the tile's keys (s, columns [first, stop)) as scores; a plain rule's
// scale is left to the softmax. Most blocks need nothing of this.
template <typename U>
[[gnu::noinline]] void score_rows(const AttentionParams& p, const Sequence& sequence, int64_t n0,
                                  const KeyTile<U>& tile, const RowBlock& block, int64_t f, Span columns,
                                  bool plain, bool masked, AccOf<U>* s, const ForwardScratch<U>& x) {
  const auto rule = ScoreRule<AccOf<U>>::of(p);
  const int first = static_cast<int>(columns.begin), stop = static_cast<int>(columns.end);
  for (int r = 0; r < block.rows; ++r) {
    AccOf<U>* row = s + r * kTile;
    if (!plain) rule.apply(row, first, stop, block.row[r].head, n0 - block.position[r], nullptr);
    if (masked) mask_row<U>(p, sequence, tile, block, r, n0, columns, row, x.penalty, x.poisoned + f + r);
  }
}

// softmax_rows with dropout.
template <typename U, typename Place>
[[gnu::noinline]] void drop_rows(const AttentionParams& p, const Sequence& sequence, int64_t n0,
                                 const RowBlock& block, const AccOf<U>* s, const SoftmaxRows<AccOf<U>>& rows,
                                 AccOf<U> scale, const Place& place, const ForwardScratch<U>& x) {
  using A = AccOf<U>;
  softmax_rows<A>(s, rows, scale, AsAccumulators<A>{x.kept});
  for (int r = 0; r < block.rows; ++r) {
    A* row = x.kept + r * kTile;
    dropout_row(p, sequence, block.row[r].head, block.position[r], n0, x.keep);
    for (int c = rows.first; c < rows.stop; ++c) row[c] = x.keep[c] != 0 ? row[c] * x.keep[c] : A{0};
    for (int c = rows.first; c < rows.stop; c += kLanes<A>) place.put(r, c, load_bytes<Vec<A>>(row + c));
  }
}

// The probabilities, relative to the rows' bases, of the products of a block's rows and the tile's keys (s,
// columns [first, stop)); updates the rows' states. s is overwritten. f: index of the state of the block's
// first row.
template <typename U, typename Place>
inline void probabilities(const AttentionParams& p, const Sequence& sequence, int64_t n0,
                          const KeyTile<U>& tile, RowBlock& block, int64_t f, Span columns, AccOf<U>* s,
                          const Place& place, const ForwardScratch<U>& x) {
  using A = AccOf<U>;
  const auto rule = ScoreRule<A>::of(p);
  const bool special = *tile.special || p.scattered, masked = special || !block.sees_all(n0, columns);
  const bool plain = !special && rule.plain();
  if (masked || !plain) score_rows<U>(p, sequence, n0, tile, block, f, columns, plain, masked, s, x);
  const int64_t out_columns = padded_columns<U>(p.head_dim_v);
  const SoftmaxRows<A> rows{block.rows,
                            static_cast<int>(columns.begin),
                            static_cast<int>(columns.end),
                            x.row_base + f,
                            x.row_sum + f * kLanes<A>,
                            x.out + f * out_columns,
                            out_columns,
                            &block.bases};
  const A scale = plain ? rule.scale : A{1};
  if (p.dropout) return drop_rows<U>(p, sequence, n0, block, s, rows, scale, place, x);
  softmax_rows<A>(s, rows, scale, place);
}

// Blocks [first_block, stop_block) against the key tile from key n0. each() is called once per panel of a
// product.
template <typename U, typename Each>
void attend_tile(const AttentionParams& p, const Sequence& sequence, int64_t n0, const KeyTile<U>& tile,
                 int first_block, int stop_block, const ForwardScratch<U>& x, const Each& each) {
  using A = AccOf<U>;
  const int64_t depth = units<U>(p.head_dim), out_columns = padded_columns<U>(p.head_dim_v);
  for (int b = first_block; b < stop_block; ++b) {
    RowBlock& block = x.blocks[b];
    const Span columns = block.columns<A>(n0);
    if (empty(columns)) continue;
    const int first = static_cast<int>(columns.begin), stop = static_cast<int>(columns.end);
    const int64_t f = state_row(b, 0);
    multiply_across<U>(block.rows, x.q + f * depth, tile.k, p.head_dim, x.s, first, stop, each);
    probabilities<U>(p, sequence, n0, tile, block, f, columns, x.s, place_of<U>(x.probs), x);
    multiply_along<U>(block.rows, x.probs, tile.v, first, stop, x.out + f * out_columns, out_columns, each);
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
