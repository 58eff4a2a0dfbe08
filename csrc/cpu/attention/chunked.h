// Chunked attention: output positions > the chunks that cover them > key segments of the chunk > key tiles,
// with the products of windowed attention. No chunk is materialised; every output is written by one task.
// Included only by files that are compiled once per instruction set.
#pragma once

#include "cpu/attention/key_grad.h"
#include "cpu/chunked.h"

namespace lck::LCK_ISA {

// A chunk's extra rows as a text of p.extra.
inline Text extra_text(const ChunkedParams& p, int64_t chunk) {
  Text text{};
  text.batch = chunk;
  text.q_len = p.num_extra;
  text.bounds = {0, p.num_extra, p.num_extra, 0};
  return text;
}

inline Span span_of(const Segment& s) {
  return {s.start, int64_t{s.start} + s.length};
}

// each(segment) for the segments that touch positions of `span`, in order.
template <typename Each>
inline void for_segments(const ChunkedParams& p, Span span, Each each) {
  int64_t low = 0, high = p.num_segments;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (p.segments[middle].start + p.longest_segment <= span.begin) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  for (; low < p.num_segments && p.segments[low].start < span.end; ++low) {
    if (!empty(intersect(span_of(p.segments[low]), span))) each(p.segments[low]);
  }
}

template <typename Each>
inline void for_chunk(const ChunkedParams& p, int64_t chunk, Each each) {
  for (int64_t i = p.chunk_bounds[chunk]; i < p.chunk_bounds[chunk + 1]; ++i)
    each(p.segments[p.chunk_segments[i]]);
}

// Place of a chunk's column in lse and dots; extra row e is column chunk_len + e.
inline int64_t state_index(const ChunkedParams& p, int64_t head, int64_t chunk, int64_t column) {
  return (head * p.num_chunks + chunk) * (p.chunk_len + p.num_extra) + column;
}

template <typename A>
inline A share_of(const ChunkedParams& p, const Segment& s, int64_t position) {
  return static_cast<const A*>(p.shares)[s.row * p.chunk_len + s.col + position - s.start];
}

// Positions of a segment within `span`, less those at either end that have no share.
template <typename A>
inline Span shared_positions(const ChunkedParams& p, const Segment& s, Span span, bool all) {
  Span rows = intersect(span_of(s), span);
  while (!all && !empty(rows) && share_of<A>(p, s, rows.begin) == 0) ++rows.begin;
  while (!all && !empty(rows) && share_of<A>(p, s, rows.end - 1) == 0) --rows.end;
  return rows;
}

// Calls attend(params, text, n0, tile) for every key tile of a chunk, with the blocks' spans set before.
template <typename U, typename T, typename Attend>
void for_key_tiles(const ChunkedParams& p, int64_t chunk, int64_t kv_head, const PackedTiles& packed,
                   bool backward, UnitOf<U>* staged, const KeyTile<U>& own, RowBlock* blocks, int num_blocks,
                   Attend attend) {
  const auto span_tiles = [&](const AttentionParams& params, const Text& text, Span keys,
                              const PackedTiles& from) {
    for (int b = 0; b < num_blocks; ++b) blocks[b].see(keys);
    const Span tiles = tiles_of(keys);
    for (int64_t t = tiles.begin; t < tiles.end; ++t) {
      attend(params, text, t * kTile,
             key_tile<U, T>(params, text, kv_head, t, from, backward, kNoReadAhead, staged, own));
    }
  };
  const Text& text = p.sequence.texts[0];
  for_chunk(p, chunk, [&](const Segment& s) { span_tiles(p.sequence, text, span_of(s), packed); });
  if (p.num_extra) span_tiles(p.extra, extra_text(p, chunk), {0, p.num_extra}, {});
}

// Attention of rows [0, count) within a chunk; finish(row, accumulator, result) for each.
template <typename U, typename T, typename RowAt, typename Finish>
void attend_chunk(const ChunkedParams& p, const AttentionParams& of_rows, const Text& text, int64_t chunk,
                  int64_t kv_head, int64_t count, const PackedTiles& packed, const ForwardScratch<U>& x,
                  RowAt row_at, Finish finish) {
  const int num_blocks =
      begin_rows<U, T>(of_rows, text, 0, count, false, 1, x, row_at, [](QueryRow) { return VisibleKeys{}; });
  for_key_tiles<U, T>(
      p, chunk, kv_head, packed, false, x.staged, x.tile, x.blocks, num_blocks,
      [&](const AttentionParams& params, const Text& keys, int64_t n0, const KeyTile<U>& tile) {
        attend_tile<U>(params, keys, n0, tile, 0, num_blocks, x);
      });
  for (int64_t f = 0; f < count; ++f) {
    finish(row_at(f), x.out + f * padded_columns<U>(p.sequence.head_dim_v), row_result<U>(x, f));
  }
}

// <dout, share * out> of a row.
template <typename A, typename T>
inline A output_dot(const T* dout, const A* out, A share, int64_t dim) {
  A total = 0;
  for (int64_t d = 0; d < dim; ++d) total += to_acc(dout[d]) * (share * out[d]);
  return total;
}

template <typename A>
inline void keep_state(const ChunkedParams& p, int64_t place, A lse, A share, A dot) {
  const bool counts = share != 0 && lse != -kInf<A>;
  static_cast<A*>(p.lse)[place] = counts ? lse - log(share) : kInf<A>;
  static_cast<A*>(p.dots)[place] = dot;
}

// Positions of one head: their merged output, or (states) lse and dots of every chunk's row.
template <typename U, typename T>
void chunked_positions(const ChunkedParams& p, const ChunkedTask& task, bool states,
                       const PackedTiles& packed, void* scratch) {
  using A = AccOf<U>;
  Arena arena{static_cast<char*>(scratch)};
  const AttentionParams& sequence = p.sequence;
  const auto x = ForwardScratch<U>::of(&arena, sequence);
  const int64_t columns = padded_columns<U>(sequence.head_dim_v);
  A* merged = arena.take<A>(kQueryTileRows * columns);
  const Text& text = sequence.texts[0];
  const int64_t head = task.head, kv_head = head / (sequence.num_heads / sequence.num_kv_heads);
  const Span tile{task.first, task.first + task.count};
  for (int64_t i = 0; i < task.count * columns; ++i) merged[i] = 0;
  for_segments(p, tile, [&](const Segment& s) {
    const Span rows = shared_positions<A>(p, s, tile, states && p.all_rows);
    if (empty(rows)) return;
    attend_chunk<U, T>(
        p, sequence, text, s.row, kv_head, rows.end - rows.begin, packed, x,
        [&](int64_t f) { return QueryRow{head, rows.begin + f}; },
        [&](QueryRow row, const A* out, RowResult<A> result) {
          const A share = share_of<A>(p, s, row.query);
          if (states) {
            const T* dout = row_of<const T>(sequence.dout, 0, row.query, head);
            const int64_t place = state_index(p, head, s.row, s.col + row.query - s.start);
            keep_state(p, place, result.lse, share, output_dot(dout, out, result.share, sequence.head_dim_v));
          } else if (share != 0) {
            A* to = merged + (row.query - task.first) * columns;
            for (int64_t d = 0; d < sequence.head_dim_v; ++d) to[d] += share * (result.share * out[d]);
          }
        });
  });
  for (int64_t f = 0; !states && f < task.count; ++f) {
    store_row(merged + f * columns, A{1}, sequence.head_dim_v,
              row_of<T>(sequence.out, 0, task.first + f, head));
  }
}

// Extra rows [first, first + count) of a chunk and head: their output, or (states) lse and dots.
template <typename U, typename T>
void chunked_extra(const ChunkedParams& p, const ChunkedTask& task, bool states, const PackedTiles& packed,
                   void* scratch) {
  using A = AccOf<U>;
  Arena arena{static_cast<char*>(scratch)};
  const auto x = ForwardScratch<U>::of(&arena, p.sequence);
  const int64_t head = task.head, kv_head = head / (p.extra.num_heads / p.extra.num_kv_heads);
  const int64_t dim = p.extra.head_dim_v;
  attend_chunk<U, T>(
      p, p.extra, extra_text(p, task.chunk), task.chunk, kv_head, task.count, packed, x,
      [&](int64_t f) { return QueryRow{head, task.first + f}; },
      [&](QueryRow row, const A* out, RowResult<A> result) {
        if (states) {
          const T* dout = row_of<const T>(p.extra.dout, task.chunk, row.query, head);
          const int64_t place = state_index(p, head, task.chunk, p.chunk_len + row.query);
          keep_state(p, place, result.lse, A{1}, output_dot(dout, out, result.share, dim));
        } else {
          store_row(out, result.share, dim, row_of<T>(p.extra.out, task.chunk, row.query, head));
        }
      });
}

template <typename A>
inline RowState<A> kept_state(const ChunkedParams& p, int64_t place) {
  const A lse = static_cast<const A*>(p.lse)[place];
  return {lse, lse == kInf<A> ? A{0} : static_cast<const A*>(p.dots)[place]};
}
template <typename A>
inline RowState<A> segment_state(const ChunkedParams& p, const Segment& s, QueryRow row) {
  if (share_of<A>(p, s, row.query) == 0) return {kInf<A>, 0};
  return kept_state<A>(p, state_index(p, row.head, s.row, s.col + row.query - s.start));
}
template <typename A>
inline RowState<A> extra_state(const ChunkedParams& p, int64_t chunk, QueryRow row) {
  return kept_state<A>(p, state_index(p, row.head, chunk, p.chunk_len + row.query));
}

// dq of rows [0, count) from one chunk, into x->dq.
template <typename U, typename T, typename RowAt, typename State>
void query_grad_chunk(const ChunkedParams& p, const AttentionParams& of_rows, const Text& text, int64_t chunk,
                      int64_t kv_head, int64_t count, const PackedTiles& packed, const KeyTile<U>& own,
                      QueryGradScratch<U>* x, RowAt row_at, State state) {
  begin_query_grads<U, T>(of_rows, text, count, x, row_at, state, [](QueryRow) { return VisibleKeys{}; });
  for_key_tiles<U, T>(p, chunk, kv_head, packed, true, x->staged, own, x->rows.blocks, x->rows.num_blocks,
                      [&](const AttentionParams& params, const Text& keys, int64_t n0,
                          const KeyTile<U>& tile) { query_grad_tile<U>(params, keys, n0, tile, *x); });
}

template <typename U, typename T>
void chunked_query_grads(const ChunkedParams& p, const ChunkedTask& task, const PackedTiles& packed,
                         void* scratch) {
  using A = AccOf<U>;
  Arena arena{static_cast<char*>(scratch)};
  const AttentionParams& sequence = p.sequence;
  auto x = QueryGradScratch<U>::of(&arena, sequence);
  const auto own = KeyTile<U>::of(&arena, sequence, true);
  const int64_t columns = padded_columns<U>(sequence.head_dim), head = task.head;
  const int64_t kv_head = head / (sequence.num_heads / sequence.num_kv_heads);
  const A scale = static_cast<A>(sequence.softmax_scale);
  if (task.chunk >= 0) {
    query_grad_chunk<U, T>(
        p, p.extra, extra_text(p, task.chunk), task.chunk, kv_head, task.count, packed, own, &x,
        [&](int64_t f) { return QueryRow{head, task.first + f}; },
        [&](QueryRow row) { return extra_state<A>(p, task.chunk, row); });
    for (int64_t f = 0; f < task.count; ++f) {
      store_row(x.dq + f * columns, scale, sequence.head_dim,
                row_of<T>(p.extra.dq, task.chunk, task.first + f, head));
    }
    return;
  }
  A* merged = arena.take<A>(kQueryTileRows * columns);
  const Span tile{task.first, task.first + task.count};
  for (int64_t i = 0; i < task.count * columns; ++i) merged[i] = 0;
  for_segments(p, tile, [&](const Segment& s) {
    const Span rows = shared_positions<A>(p, s, tile, false);
    if (empty(rows)) return;
    query_grad_chunk<U, T>(
        p, sequence, sequence.texts[0], s.row, kv_head, rows.end - rows.begin, packed, own, &x,
        [&](int64_t f) { return QueryRow{head, rows.begin + f}; },
        [&](QueryRow row) { return segment_state<A>(p, s, row); });
    for (int64_t f = 0; f < rows.end - rows.begin; ++f) {
      if (share_of<A>(p, s, rows.begin + f) == 0) continue;
      A* to = merged + (rows.begin + f - task.first) * columns;
      for (int64_t d = 0; d < sequence.head_dim; ++d) to[d] += x.dq[f * columns + d];
    }
  });
  for (int64_t f = 0; f < task.count; ++f) {
    store_row(merged + f * columns, scale, sequence.head_dim,
              row_of<T>(sequence.dq, 0, task.first + f, head));
  }
}

// dk and dv of keys [first, first + count) of the sequence, or (chunk >= 0) of a chunk's extra rows.
template <typename U, typename T>
void chunked_key_grads(const ChunkedParams& p, const ChunkedTask& task, void* scratch) {
  using A = AccOf<U>;
  Arena arena{static_cast<char*>(scratch)};
  auto x = KeyGradScratch<U>::of(&arena, p.sequence, kKeyTileRows / kTile);
  const bool of_extra = task.chunk >= 0;
  const AttentionParams& params = of_extra ? p.extra : p.sequence;
  const Text text = of_extra ? extra_text(p, task.chunk) : p.sequence.texts[0];
  const int64_t kv_head = task.head, group = params.num_heads / params.num_kv_heads;
  begin_key_rows<U, T>(params, text, kv_head, task.first, task.count, x);

  // The queries of a chunk against those key rows that `keys` holds.
  const auto add_queries = [&](const AttentionParams& of_queries, const Text& of, Span queries, Span keys,
                               auto state) {
    const Span tiles = tiles_of(queries);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (int64_t t = tiles.begin; t < tiles.end; ++t) {
        pack_query_tile<U, T>(
            of_queries, of, head, t * kTile, &x,
            [&](QueryRow row) {
              const bool inside = row.query >= queries.begin && row.query < queries.end;
              return inside ? state(row) : RowState<A>{kInf<A>, 0};
            },
            [&](QueryRow) { return VisibleKeys{keys, {0, 0}}; });
        grad_pairs<U>(params, text, task.first, task.count, false, nullptr, x);
      }
    }
  };
  const auto add_chunk = [&](int64_t chunk, Span keys) {
    for_chunk(p, chunk, [&](const Segment& s) {
      const Span queries = shared_positions<A>(p, s, span_of(s), false);
      if (empty(queries)) return;
      add_queries(p.sequence, p.sequence.texts[0], queries, keys,
                  [&](QueryRow row) { return segment_state<A>(p, s, row); });
    });
    if (!p.num_extra || !p.extra_queries) return;
    add_queries(p.extra, extra_text(p, chunk), {0, p.num_extra}, keys,
                [&](QueryRow row) { return extra_state<A>(p, chunk, row); });
  };
  if (of_extra) {
    add_chunk(task.chunk, {0, p.num_extra});
  } else {
    for_segments(p, {task.first, task.first + task.count},
                 [&](const Segment& s) { add_chunk(s.row, span_of(s)); });
  }
  store_key_rows<U, T>(params, text, kv_head, task.first, task.count, x);
}

}  // namespace lck::LCK_ISA
