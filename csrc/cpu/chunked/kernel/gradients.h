// Backward of chunked attention: chunks > query tiles > heads of the group > key tiles of the chunk, in two
// passes: S, dP and their sums over each row, then dS and the other three products. Each chunk stores partial
// gradients of its rows, which are added position by position in the order of the segments.
// Included only by files that are compiled once per instruction set.
#pragma once

#include "cpu/attention/kernel/key_grad.h"
#include "cpu/attention/kernel/result_rows.h"
#include "cpu/chunked/kernel/outputs.h"

namespace lck::LCK_ISA {

// The most key tiles of a chunk whose S and dP are stored between the two passes; those of the others are
// recomputed.
inline constexpr int64_t kStoredTiles = 64;

// Partial gradients of one kv head: of all chunks' rows, each from its own chunk, fp32 (fp64).
template <typename U>
struct ChunkParts {
  using A = AccOf<U>;
  A *dq, *dk, *dv;  // (group, rows, columns), then (num_splits, rows, columns) each
  int64_t rows;

  static ChunkParts of(Arena* arena, const ChunkedParams& p) {
    const AttentionParams& s = p.sequence;
    ChunkParts x{};
    x.rows = p.chunk_rows[p.num_chunks];
    x.dq = arena->take<A>(s.num_heads / s.num_kv_heads * x.rows * padded_columns<U>(s.head_dim));
    x.dk = arena->take<A>(p.num_splits * x.rows * padded_columns<U>(s.head_dim));
    x.dv = arena->take<A>(p.num_splits * x.rows * padded_columns<U>(s.head_dim_v));
    return x;
  }
  static int64_t bytes(const ChunkedParams& p) {
    Arena arena{nullptr};
    of(&arena, p);
    return arena.used;
  }
  static ChunkParts at(const ChunkedParams& p, std::byte* parts) {
    Arena arena{reinterpret_cast<char*>(parts)};
    return of(&arena, p);
  }
};

// Sums of the rows of a query tile over the keys of a chunk: of e^(score - base), and of that times dP.
template <typename A>
struct RowTotals {
  A* base;         // (rows)
  A *probs, *dot;  // (rows, lanes)

  static constexpr int64_t kCount = kTileBlocks * kRows;

  static RowTotals of(Arena* arena) {
    return {arena->take<A>(kCount), arena->take<A>(kCount * kLanes<A>), arena->take<A>(kCount * kLanes<A>)};
  }
  void clear() const {
    for (int64_t f = 0; f < kCount; ++f) base[f] = -kInf<A>;
    for (int64_t i = 0; i < kCount * kLanes<A>; ++i) probs[i] = dot[i] = 0;
  }
  // lse of row f and <dout, out>.
  RowState<A> row(int64_t f) const {
    const A total = sum<A>(load_bytes<Vec<A>>(probs + f * kLanes<A>));
    const A with_grad = sum<A>(load_bytes<Vec<A>>(dot + f * kLanes<A>));
    if (total == 0) return {-kInf<A>, with_grad * total};
    return {base[f] + log(total), with_grad / total};
  }
};

// Adds some columns of one row, products q.k in s and dP in dp, to row f.
template <typename U>
inline void add_totals(const AttentionParams& p, const KeyTile<U>& tile, const ColumnMask<AccOf<U>>& mask,
                       bool masked, Span columns, const AccOf<U>* s, AccOf<U>* dp, int64_t f,
                       const RowTotals<AccOf<U>>& totals) {
  using A = AccOf<U>;
  constexpr int L = kLanes<A>;
  const int first = static_cast<int>(columns.begin), stop = static_cast<int>(columns.end);
  const A scale = static_cast<A>(p.softmax_scale);
  const bool special = *tile.special;
  for (int c = first; special && c < stop; ++c) dp[c] = tile.bad_value[c] ? kNan<A> : dp[c];
  const auto score = [&](int c) {
    Vec<A> t = rounded(load_bytes<Vec<A>>(s + c) * scale);
    if (special) t += load_bytes<Vec<A>>(tile.penalty + c);
    return masked ? (mask.lanes(c) ? t : splat(-kInf<A>)) : t;
  };
  Vec<A> most = splat(-kInf<A>);
  for (int c = first; c < stop; c += L) most = lane_max(score(c), most);
  A *probs = totals.probs + f * L, *dot = totals.dot + f * L;
  if (any<A>(most > totals.base[f] + A{kBaseSlack})) {
    raise_base(largest<A>(most), totals.base + f, probs, dot, L);
  }
  const A base = totals.base[f] == -kInf<A> ? A{0} : totals.base[f];
  Vec<A> prob_sum = load_bytes<Vec<A>>(probs), dot_sum = load_bytes<Vec<A>>(dot);
  for (int c = first; c < stop; c += L) {
    const Vec<A> prob = exp(score(c) - base), grad = load_bytes<Vec<A>>(dp + c);
    prob_sum += prob;
    dot_sum += masked ? (mask.lanes(c) ? prob * grad : Vec<A>{}) : prob * grad;
  }
  store(prob_sum, probs);
  store(dot_sum, dot);
}

template <typename U>
struct ChunkScratch {
  using A = AccOf<U>;
  KeyGradScratch<U> pairs;
  RowTotals<A> totals;
  A* products;  // (stored tiles, 2, kPairElements)

  static ChunkScratch of(Arena* arena, const ChunkedParams& p) {
    const int64_t kept = smaller(p.most_tiles, kStoredTiles);
    return {KeyGradScratch<U>::of(arena, p.sequence, p.most_tiles), RowTotals<A>::of(arena),
            arena->take<A>(kept * 2 * kPairElements)};
  }
  // pairs with the memory for S and dP of a key tile.
  KeyGradScratch<U> with_products(int64_t tile) const {
    if (tile >= kStoredTiles) return pairs;
    A* place = products + tile * 2 * kPairElements;
    return pairs.with_products(place, place + kPairElements);
  }
};

// each(run, n0, number of the tile) for every key tile of a chunk. The rows of the query tile see the keys of
// the run, except rows whose lse is +inf.
template <typename U, typename Each>
inline void for_key_tiles(const ChunkedParams& p, int64_t chunk, const GradRows<U>& rows, Each each) {
  int64_t number = 0;
  for_runs(p, chunk, [&](const ChunkRun& run) {
    for (int b = 0; b < rows.num_blocks; ++b) {
      RowBlock& block = rows.blocks[b];
      block.see(run.rows);
      for (int r = 0; r < block.rows; ++r) {
        if (rows.lse[int64_t{b} * kRows + r] == kInf<AccOf<U>>) block.seen[r] = {}, block.common = {0, 0};
      }
    }
    for (int64_t n0 = run.rows.begin; n0 < run.rows.end; n0 += kTile) each(run, n0, number++);
  });
}

// Computes S and dP of the packed query tile and all key tiles, then sets lse and delta of its rows to
// finish(f, state), where state has the row's sums. Returns whether some row has a gradient.
template <typename U, typename Finish>
bool sum_rows(const ChunkedParams& p, int64_t chunk, const ChunkScratch<U>& x, Finish finish) {
  using A = AccOf<U>;
  const GradRows<U>& rows = x.pairs.rows;
  x.totals.clear();
  for_key_tiles<U>(p, chunk, rows, [&](const ChunkRun& run, int64_t n0, int64_t number) {
    const KeyTile<U> tile = x.pairs.key_tile(p.sequence, number);
    const auto at = x.with_products(number);
    for (int b = 0; b < rows.num_blocks; ++b) {
      const RowBlock& block = rows.blocks[b];
      const Span columns = block.template columns<A>(n0);
      const bool masked = *tile.special || !block.sees_all(n0, columns);
      A *s = at.s + int64_t{b} * kRows * kTile, *dp = at.dp + int64_t{b} * kRows * kTile;
      grad_products<U>(*run.params, rows, b, tile, columns, s, dp);
      for (int r = 0; r < block.rows; ++r) {
        add_totals<U>(*run.params, tile, ColumnMask<A>::of(block.seen[r], n0), masked, columns, s + r * kTile,
                      dp + r * kTile, int64_t{b} * kRows + r, x.totals);
      }
    }
  });
  bool has_gradient = false;
  for (int b = 0; b < rows.num_blocks; ++b) {
    for (int64_t f = int64_t{b} * kRows; f < int64_t{b} * kRows + rows.blocks[b].rows; ++f) {
      const RowState<A> state = finish(f, x.totals.row(f));
      rows.lse[f] = state.lse, rows.delta[f] = state.delta;
      has_gradient |= state.lse != kInf<A>;
    }
  }
  return has_gradient;
}

// Queries [i0, i0 + kTile) of one head up to the end of the sequence: their dq, and their part of dk and dv.
template <typename U, typename T>
void chunk_query_tile(const ChunkedParams& p, const ChunkRun& run, const Sequence& sequence, int64_t chunk,
                      int64_t head, int64_t i0, const ChunkParts<U>& parts, ChunkScratch<U>* x) {
  using A = AccOf<U>;
  pack_query_tile<U, T>(
      *run.params, sequence, head, i0, &x->pairs, [](QueryRow) { return RowState<A>{0, 0}; },
      [](QueryRow) { return VisibleKeys{}; });
  const bool has_gradient = sum_rows<U>(p, chunk, *x, [&](int64_t f, RowState<A> state) {
    if (p.dots) static_cast<A*>(p.dots)[head * parts.rows + run.place_of(i0 + f)] = state.delta;
    const A weight = merge_weight<A>(p, chunk, run.column_of(i0 + f));
    const bool counts = weight != 0 && state.lse != -kInf<A>;
    return RowState<A>{counts ? state.lse - log(weight) : kInf<A>, state.delta};
  });
  x->pairs.clear_dq(p.sequence);
  if (has_gradient) {
    for_key_tiles<U>(p, chunk, x->pairs.rows, [&](const ChunkRun& keys, int64_t n0, int64_t number) {
      grad_pair<U>(*keys.params, keys.sequence, n0, number, number < kStoredTiles, nullptr,
                   x->with_products(number));
    });
  }
  const int64_t columns = padded_columns<U>(p.sequence.head_dim);
  const int64_t of_group = head % (p.sequence.num_heads / p.sequence.num_kv_heads);
  std::memcpy(parts.dq + (of_group * parts.rows + run.place_of(i0)) * columns, x->pairs.dq,
              smaller(sequence.q_len - i0, kTile) * columns * sizeof(A));
}

// The gradients of a chunk and kv head, or of one of num_splits parts of its query tiles and heads, into
// task.parts.
template <typename U, typename T>
void chunk_gradients(const ChunkedParams& p, const ChunkGradTask& task, void* scratch) {
  using A = AccOf<U>;
  Arena arena{static_cast<char*>(scratch)};
  const AttentionParams& params = p.sequence;
  auto x = ChunkScratch<U>::of(&arena, p);
  const auto parts = ChunkParts<U>::at(p, task.parts);
  const int64_t group = params.num_heads / params.num_kv_heads;
  int64_t first_tile = 0;
  for_runs(p, task.chunk, [&](const ChunkRun& run) {
    begin_key_rows<U, T>(*run.params, run.sequence, task.kv_head, run.rows.begin, run.length(),
                         x.pairs.from_tile(params, first_tile));
    first_tile += (run.length() + kTile - 1) / kTile;
  });
  int64_t number = 0;
  for_runs(p, task.chunk, [&](const ChunkRun& run) {
    if (run.params == &p.extra && !p.extra_queries) return;
    const Span queries = p.dots ? run.rows : with_weight<A>(p, task.chunk, run.column, run.rows);
    Sequence sequence = run.sequence;
    sequence.q_len = queries.end;
    for (int64_t i0 = queries.begin; i0 < queries.end; i0 += kTile) {
      for (int64_t head = task.kv_head * group; head < (task.kv_head + 1) * group; ++head, ++number) {
        if (number % p.num_splits != task.split) continue;
        chunk_query_tile<U, T>(p, run, sequence, task.chunk, head, i0, parts, &x);
      }
    }
  });
  first_tile = 0;
  for_runs(p, task.chunk, [&](const ChunkRun& run) {
    const auto copy = [&](const A* from, int64_t dim, A* to) {
      const int64_t columns = padded_columns<U>(dim);
      std::memcpy(to + (task.split * parts.rows + run.place) * columns, from + first_tile * kTile * columns,
                  run.length() * columns * sizeof(A));
    };
    copy(x.pairs.dk, params.head_dim, parts.dk);
    copy(x.pairs.dv, params.head_dim_v, parts.dv);
    first_tile += (run.length() + kTile - 1) / kTile;
  });
}

// dq, dk and dv of the task's rows and kv head, from its parts.
template <typename U, typename T>
void merge_chunk_gradients(const ChunkedParams& p, const ChunkedTask& task, std::byte* parts, void* scratch) {
  using A = AccOf<U>;
  const bool of_extra = task.chunk >= 0;
  const AttentionParams& params = of_extra ? p.extra : p.sequence;
  const int64_t group = params.num_heads / params.num_kv_heads;
  const auto from = ChunkParts<U>::at(p, parts);
  const Span rows{task.first, task.first + task.count};
  A* merged = static_cast<A*>(scratch);
  // part: (slices, rows, columns). queries: dq, whose rows with weight 0 were not written.
  const auto merge = [&](const A* part, int64_t slices, int64_t dim, bool queries, A factor,
                         const HeadsTensor& to, int64_t head) {
    const int64_t columns = padded_columns<U>(dim);
    const auto add = [&](int64_t chunk, int64_t column, int64_t place, Span some) {
      for (int64_t row = some.begin; row < some.end; ++row, ++column, ++place) {
        if (queries && merge_weight<A>(p, chunk, column) == 0) continue;
        A* sums = merged + (row - rows.begin) * columns;
        for (int64_t slice = 0; slice < slices; ++slice) {
          add_row(part + (slice * from.rows + place) * columns, columns, sums);
        }
      }
    };
    for (int64_t i = 0; i < task.count * columns; i += kLanes<A>) store(Vec<A>{}, merged + i);
    if (of_extra) {
      add(task.chunk, p.chunk_len, p.chunk_rows[task.chunk + 1] - p.num_extra + rows.begin, rows);
    } else {
      for_segments(p, rows, [&](const Segment& s) {
        const Span some = intersect(span_of(s), rows);
        const int64_t skipped = some.begin - s.start;
        add(s.row, s.col + skipped, p.segment_rows[&s - p.segments] + skipped, some);
      });
    }
    for (int64_t f = 0; f < task.count; ++f) {
      store_row(merged + f * columns, factor, dim,
                row_of<T>(to, of_extra ? task.chunk : 0, rows.begin + f, head));
    }
  };
  const A scale = static_cast<A>(params.softmax_scale);
  for (int64_t g = 0; g < group && (!of_extra || p.extra_queries); ++g) {
    const A* part = from.dq + g * from.rows * padded_columns<U>(params.head_dim);
    merge(part, 1, params.head_dim, true, scale, params.dq, task.head * group + g);
  }
  merge(from.dk, p.num_splits, params.head_dim, false, scale, params.dk, task.head);
  merge(from.dv, p.num_splits, params.head_dim_v, false, A{1}, params.dv, task.head);
}

}  // namespace lck::LCK_ISA
