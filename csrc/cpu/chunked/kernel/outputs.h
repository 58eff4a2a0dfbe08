// The runs of rows of a chunk, and the forward of chunked attention: output positions > the chunks that cover
// them > runs of keys of the chunk > key tiles, with the products of windowed attention. No chunk is
// materialised; every output is written by one task. Included only by files that are compiled once
// per instruction set.
#pragma once

#include "cpu/attention/kernel/forward.h"
#include "cpu/attention/kernel/result_rows.h"
#include "cpu/chunked/kernels.h"

namespace lck::LCK_ISA {

// A chunk's extra rows as a sequence of p.extra.
inline Sequence extra_sequence(const ChunkedParams& p, int64_t chunk) {
  Sequence sequence{};
  sequence.batch = chunk;
  sequence.q_len = p.num_extra;
  sequence.bounds = {0, p.num_extra, p.num_extra, 0};
  return sequence;
}

inline Span span_of(const Segment& s) {
  return {s.start, int64_t{s.start} + s.length};
}

// each(segment) for the segments that overlap `span`, in order.
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

// Contiguous rows of a chunk: a segment of the sequence, or the chunk's extra rows, whose first column is
// chunk_len. place: index of the first row among all chunks' rows.
struct ChunkRun {
  const AttentionParams* params;
  Sequence sequence;
  Span rows;
  int64_t column, place;

  int64_t column_of(int64_t row) const { return column + row - rows.begin; }
  int64_t place_of(int64_t row) const { return place + row - rows.begin; }
  int64_t length() const { return rows.end - rows.begin; }
};

// each(run) for the runs of a chunk in order.
template <typename Each>
inline void for_runs(const ChunkedParams& p, int64_t chunk, Each each) {
  for (int64_t i = p.chunk_bounds[chunk]; i < p.chunk_bounds[chunk + 1]; ++i) {
    const int32_t number = p.chunk_segments[i];
    const Segment& s = p.segments[number];
    each(ChunkRun{&p.sequence, p.sequence.sequences[0], span_of(s), s.col, p.segment_rows[number]});
  }
  if (!p.num_extra) return;
  const int64_t place = p.chunk_rows[chunk + 1] - p.num_extra;
  each(ChunkRun{&p.extra, extra_sequence(p, chunk), {0, p.num_extra}, p.chunk_len, place});
}

// The normalized weight of a chunk's column; 1 for an extra row.
template <typename A>
inline A merge_weight(const ChunkedParams& p, int64_t chunk, int64_t column) {
  return column < p.chunk_len ? static_cast<const A*>(p.merge_weights)[chunk * p.chunk_len + column] : A{1};
}

// Rows of a chunk from a column on, without those of weight 0 at either end.
template <typename A>
inline Span with_weight(const ChunkedParams& p, int64_t chunk, int64_t column, Span rows) {
  while (!empty(rows) && merge_weight<A>(p, chunk, column) == 0) ++rows.begin, ++column;
  while (!empty(rows) && merge_weight<A>(p, chunk, column + rows.end - rows.begin - 1) == 0) --rows.end;
  return rows;
}

// Attention of rows [0, count) within a chunk; finish(row, accumulator, result) for each.
template <typename U, typename T, typename RowAt, typename Finish>
void attend_chunk(const ChunkedParams& p, const AttentionParams& of_rows, const Sequence& sequence,
                  int64_t chunk, int64_t kv_head, int64_t count, const PackedTiles& packed,
                  const ForwardScratch<U>& x, RowAt row_at, Finish finish) {
  const int num_blocks = begin_rows<U, T>(of_rows, sequence, 0, count, false, nullptr, x, row_at,
                                          [](QueryRow) { return VisibleKeys{}; });
  for_runs(p, chunk, [&](const ChunkRun& run) {
    for (int b = 0; b < num_blocks; ++b) x.blocks[b].see(run.rows);
    const PackedTiles& from = run.params == &p.sequence ? packed : PackedTiles{};
    const Span tiles = tiles_of(run.rows);
    for (int64_t t = tiles.begin; t < tiles.end; ++t) {
      const auto tile =
          key_tile<U, T>(*run.params, run.sequence, kv_head, t, from, kNoReadAhead, x.staged, x.tile);
      attend_tile<U>(*run.params, run.sequence, t * kTile, tile, 0, num_blocks, x, Nothing{});
    }
  });
  for (int64_t f = 0; f < count; ++f) {
    finish(row_at(f), x.out + f * padded_columns<U>(p.sequence.head_dim_v), row_result<U>(x, f).factor);
  }
}

// Positions of one head: their merged output.
template <typename U, typename T>
void chunked_positions(const ChunkedParams& p, const ChunkedTask& task, const PackedTiles& packed,
                       void* scratch) {
  using A = AccOf<U>;
  Arena arena{static_cast<char*>(scratch)};
  const AttentionParams& params = p.sequence;
  const auto x = ForwardScratch<U>::of(&arena, params);
  const int64_t columns = padded_columns<U>(params.head_dim_v);
  A* merged = arena.take<A>(kQueryTileRows * columns);
  const int64_t head = task.head, kv_head = head / (params.num_heads / params.num_kv_heads);
  const Span tile{task.first, task.first + task.count};
  for (int64_t i = 0; i < task.count * columns; ++i) merged[i] = 0;
  for_segments(p, tile, [&](const Segment& s) {
    const Span some = intersect(span_of(s), tile);
    const Span rows = with_weight<A>(p, s.row, s.col + some.begin - s.start, some);
    if (empty(rows)) return;
    attend_chunk<U, T>(
        p, params, params.sequences[0], s.row, kv_head, rows.end - rows.begin, packed, x,
        [&](int64_t f) { return QueryRow{head, rows.begin + f}; },
        [&](QueryRow row, const A* out, A factor) {
          const A weight = merge_weight<A>(p, s.row, s.col + row.query - s.start);
          if (weight == 0) return;
          A* to = merged + (row.query - task.first) * columns;
          for (int64_t d = 0; d < params.head_dim_v; ++d) to[d] += weight * (factor * out[d]);
        });
  });
  for (int64_t f = 0; f < task.count; ++f) {
    store_row(merged + f * columns, A{1}, params.head_dim_v, row_of<T>(params.out, 0, task.first + f, head));
  }
}

// Extra rows [first, first + count) of a chunk and head: their output.
template <typename U, typename T>
void chunked_extra(const ChunkedParams& p, const ChunkedTask& task, const PackedTiles& packed,
                   void* scratch) {
  using A = AccOf<U>;
  Arena arena{static_cast<char*>(scratch)};
  const auto x = ForwardScratch<U>::of(&arena, p.sequence);
  const int64_t head = task.head, kv_head = head / (p.extra.num_heads / p.extra.num_kv_heads);
  attend_chunk<U, T>(
      p, p.extra, extra_sequence(p, task.chunk), task.chunk, kv_head, task.count, packed, x,
      [&](int64_t f) { return QueryRow{head, task.first + f}; },
      [&](QueryRow row, const A* out, A factor) {
        store_row(out, factor, p.extra.head_dim_v, row_of<T>(p.extra.out, task.chunk, row.query, head));
      });
}

}  // namespace lck::LCK_ISA
