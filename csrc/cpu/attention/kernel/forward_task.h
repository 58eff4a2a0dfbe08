// One task of the forward, and the merge of tasks that each processed a part of a row's keys. Included only
// by files that are compiled once per instruction set.
#pragma once

#include "cpu/attention/kernel/in_place.h"
#include "cpu/attention/kernel/result_rows.h"

namespace lck::LCK_ISA {

template <typename U>
int64_t forward_scratch_bytes(const AttentionParams& p) {
  Arena arena{nullptr};
  ForwardScratch<U>::of(&arena, p);
  InPlaceScratch<AccOf<U>>::of(&arena, p);
  return arena.used;
}

// Prefetches rows line by line, an equal part in each of `steps` calls: many at once would wait for each
// other.
struct Prefetch {
  RowsAhead rows;
  int64_t lines;
  int64_t row = 0, at = 0;

  Prefetch(const RowsAhead& rows, int64_t steps) : rows(rows) {
    lines = (rows.rows * ((rows.bytes + 63) / 64) + steps - 1) / steps;
  }
  void operator()() {
    for (int64_t i = 0; i < lines && row < rows.rows; ++i) {
      __builtin_prefetch(rows.first + row * rows.stride + at);
      at += 64;
      if (at >= rows.bytes) at = 0, ++row;
    }
    asm volatile("");  // as in prefetch_row
  }
};

template <typename U, typename T>
void forward_task(const AttentionParams& p, const QueryTask& task, void* scratch) {
  using A = AccOf<U>;
  Arena arena{static_cast<char*>(scratch)};
  const auto x = ForwardScratch<U>::of(&arena, p);
  const auto own = InPlaceScratch<A>::of(&arena, p);
  const Sequence& sequence = p.sequences[task.sequence];
  const auto row_at = [&](int64_t h, int64_t f) {
    return query_row(p, sequence, task.kv_head + h, task.first_row + f);
  };
  int blocks = 0;  // of one head
  for (int64_t h = 0; h < task.heads; ++h) {
    blocks = begin_rows<U, T>(
        p, sequence, static_cast<int>(h) * blocks, task.rows, task.split == 0,
        task.num_splits == 1 ? &p.out : nullptr, x, [&](int64_t f) { return row_at(h, f); },
        [&](QueryRow row) { return keys_seen(p, sequence, row.query + sequence.offset); });
  }

  const InPlaceTask<U, T> in_place{p, sequence, task, blocks, x, own};
  const bool may_stay = reads_in_place<U, T>(p, task);
  if (may_stay) stage_queries(in_place);

  const TileList tiles = tiles_of_task(p, task);
  const int64_t first_tile = count(tiles) * task.split / task.num_splits;
  const int64_t stop_tile = count(tiles) * (task.split + 1) / task.num_splits;
  const int64_t panels =
      larger_of((stop_tile - first_tile) * task.heads * blocks * (kTile + p.head_dim_v) / kPanel<U>, 1);
  Prefetch ahead[] = {
      {task.next[0], panels}, {task.next[1], panels}, {task.next[2], panels}, {task.next[3], panels}};
  const auto prefetch = [&] {
    for (Prefetch& rows : ahead) rows();
  };
  for (int64_t u = first_tile; u < stop_tile; ++u) {
    const int64_t index = tile_at(tiles, u);
    if (may_stay && attend_in_place(in_place, index * kTile)) continue;
    const ReadAhead next{task.kv_head, task.heads, u + 1 < stop_tile ? tile_at(tiles, u + 1) * kTile : -1};
    for (int64_t h = 0; h < task.heads; ++h) {
      const auto tile =
          key_tile<U, T>(p, sequence, task.kv_head + h, index, task.packed, next, x.staged, x.tile);
      const int first_block = static_cast<int>(h) * blocks;
      attend_tile<U>(p, sequence, index * kTile, tile, first_block, first_block + blocks, x, prefetch);
    }
  }

  for (int64_t i = 0; i < task.heads * task.rows; ++i) {
    const int64_t h = i / task.rows, f = i % task.rows, state = state_row(static_cast<int>(h) * blocks, f);
    const QueryRow row = row_at(h, f);
    const auto [factor, lse] = row_result<U>(x, state);
    const A* from = x.out + state * padded_columns<U>(p.head_dim_v);
    if (task.num_splits > 1) {
      const int64_t place = task.split * task.heads * task.rows + i;
      store_row(from, factor, p.head_dim_v, static_cast<A*>(task.partial_out) + place * p.head_dim_v);
      static_cast<A*>(task.partial_lse)[place] = lse;
    } else {
      store_row(from, factor, p.head_dim_v,
                row_of<T>(p.out, sequence.batch, sequence.q_begin + row.query, row.head));
      static_cast<A*>(p.lse)[lse_index(p, sequence, row)] = lse;
    }
  }
}

// Merges partial results by their natural lse: out = sum_i e^(lse_i - lse) out_i.
template <typename U, typename T>
void merge_splits_task(const AttentionParams& p, const QueryTask& task) {
  using A = AccOf<U>;
  const Sequence& sequence = p.sequences[task.sequence];
  A* outs = static_cast<A*>(task.partial_out);
  const A* lses = static_cast<const A*>(task.partial_lse);
  const int64_t rows = task.heads * task.rows;
  for (int64_t f = 0; f < rows; ++f) {
    const auto lse_of = [&](int64_t split) { return lses[split * rows + f]; };
    A most = -kInf<A>, total = 0;
    for (int64_t i = 0; i < task.num_splits; ++i) most = lse_of(i) > most ? lse_of(i) : most;
    const A base = most == -kInf<A> ? A{0} : most;
    for (int64_t i = 0; i < task.num_splits; ++i) total += exp(lse_of(i) - base);
    const QueryRow row = query_row(p, sequence, task.kv_head + f / task.rows, task.first_row + f % task.rows);
    T* to = row_of<T>(p.out, sequence.batch, sequence.q_begin + row.query, row.head);
    A* merged = outs + f * p.head_dim_v;  // split 0's rows become the result
    for (int64_t i = 0; i < task.num_splits; ++i) {
      const A weight = exp(lse_of(i) - base);
      const A* part = outs + (i * rows + f) * p.head_dim_v;
      for (int64_t d = 0; d < p.head_dim_v; ++d)
        merged[d] = i ? merged[d] + weight * part[d] : weight * part[d];
    }
    store_row(merged, total == 0 ? A{0} : 1 / total, p.head_dim_v, to);
    static_cast<A*>(p.lse)[lse_index(p, sequence, row)] = total == 0 ? -kInf<A> : base + log(total);
  }
}

}  // namespace lck::LCK_ISA
