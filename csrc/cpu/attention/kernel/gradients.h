// Backward of windowed attention: strips of keys > heads of the group > query tiles > key tiles of the strip,
// five products a pair (key_grad.h). Only the strip's task writes its dk and dv. Strips that see the same
// query tile add to its dq in order, each after the one before. Included only by files that are compiled once
// per instruction set.
#pragma once

#include "cpu/attention/kernel/key_grad.h"
#include "cpu/attention/kernel/result_rows.h"

namespace lck::LCK_ISA {

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

// delta = <dout, out> - dlse of queries [first, stop) of a row of the batch, all heads.
template <typename T>
void delta_task(const AttentionParams& p, int64_t batch, int64_t first, int64_t stop) {
  using A = Acc<T>;
  for (int64_t query = first; query < stop; ++query) {
    for (int64_t head = 0; head < p.num_heads; ++head) {
      const int64_t i = (batch * p.num_heads + head) * p.seqlen_q + query;
      A delta = row_dot<A>(row_of<const T>(p.dout, batch, query, head),
                           row_of<const T>(p.out, batch, query, head), p.head_dim_v);
      if (p.dlse) delta -= static_cast<const A*>(p.dlse)[i];
      static_cast<A*>(p.delta)[i] = delta;
    }
  }
}

// The sums of dq of a query tile and head: in dq itself if it has the sums' dtype.
template <typename A>
struct DqSums {
  A* rows;
  int64_t row_stride;
};
template <typename A, typename B>
inline constexpr bool kSame = false;
template <typename A>
inline constexpr bool kSame<A, A> = true;
template <typename U, typename T>
inline int64_t dq_sum_elements(const AttentionParams& p) {
  return kSame<T, AccOf<U>> ? 0 : kTile * padded_columns<U>(p.head_dim);
}
template <typename U, typename T>
inline DqSums<AccOf<U>> dq_sums(const AttentionParams& p, const StripTask& task, int64_t head, int64_t tile) {
  using A = AccOf<U>;
  if (task.query_tiles[tile].strips == 1) return {nullptr, 0};
  if constexpr (kSame<T, A>) {
    const Sequence& sequence = p.sequences[task.sequence];
    return {row_of<T>(p.dq, sequence.batch, sequence.q_begin + tile * kTile, head), p.dq.row_stride};
  } else {
    const int64_t group = p.num_heads / p.num_kv_heads;
    const int64_t index = task.query_tiles[tile].sum * group + head % group;
    return {reinterpret_cast<A*>(task.sums) + index * dq_sum_elements<U, T>(p),
            padded_columns<U>(p.head_dim)};
  }
}

// Adds the strip's dq of a query tile, in x, to that of the `before` earlier strips; the last strip stores
// the result.
template <typename U, typename T>
void leave_dq(const AttentionParams& p, const StripTask& task, int64_t head, int64_t tile, int64_t before,
              const KeyGradScratch<U>& x) {
  using A = AccOf<U>;
  const Sequence& sequence = p.sequences[task.sequence];
  const bool last = before + 1 == task.query_tiles[tile].strips;
  const DqSums<A> sums = dq_sums<U, T>(p, task, head, tile);
  const int64_t count = smaller(kTile, sequence.q_len - tile * kTile);
  for (int64_t f = 0; f < count; ++f) {
    A* dq = x.dq + f * padded_columns<U>(p.head_dim);
    if (before > 0) add_row(sums.rows + f * sums.row_stride, p.head_dim, dq);
    if (last) {
      store_row(dq, static_cast<A>(p.softmax_scale), p.head_dim,
                row_of<T>(p.dq, sequence.batch, sequence.q_begin + tile * kTile + f, head));
    } else {
      store_row(dq, A{1}, p.head_dim, sums.rows + f * sums.row_stride);
    }
  }
}

template <typename U, typename T>
void strip_task(const AttentionParams& p, const StripTask& task, void* scratch) noexcept {
  using A = AccOf<U>;
  Arena arena{static_cast<char*>(scratch)};
  const Span keys = task.strip.keys, tiles = task.strip.tiles;
  const int64_t rows = keys.end - keys.begin, group = p.num_heads / p.num_kv_heads;
  auto x = KeyGradScratch<U>::of(&arena, p, (rows + kTile - 1) / kTile);
  const Sequence& sequence = p.sequences[task.sequence];
  A* dbias = p.dbias ? static_cast<A*>(p.dbias) + task.bias_slot * p.num_heads * p.bias_len : nullptr;
  begin_key_rows<U, T>(p, sequence, task.kv_head, keys.begin, rows, x);
  const auto state = [&](QueryRow row) {
    const int64_t i = lse_index(p, sequence, row);
    return RowState<A>{state_lse(static_cast<const A*>(p.lse)[i]), static_cast<const A*>(p.delta)[i]};
  };
  const auto sees = [&](QueryRow row) { return keys_seen(p, sequence, row.query + sequence.offset); };
  // Starts at the end that later strips need first, so that they seldom wait.
  for (int64_t n = 0; n < tiles.end - tiles.begin; ++n) {
    const int64_t t = task.strip.rising ? tiles.begin + n : tiles.end - 1 - n;
    const int64_t before = task.before[t - tiles.begin];
    for (int64_t head = task.kv_head * group; head < (task.kv_head + 1) * group; ++head) {
      pack_query_tile<U, T>(p, sequence, head, t * kTile, &x, state, sees);
      x.clear_dq(p);
      grad_pairs<U>(p, sequence, keys.begin, rows, dbias, x);
      const int64_t place = task.first_event + t * group + head % group;
      task.events->await(place, before);
      leave_dq<U, T>(p, task, head, t, before, x);
      task.events->advance(place);
    }
  }
  store_key_rows<U, T>(p, sequence, task.kv_head, keys.begin, rows, x);
}

// dq = 0 for a query tile and head.
template <typename T>
void zero_dq_task(const AttentionParams& p, int64_t sequence, int64_t head, int64_t tile) {
  const Sequence& of = p.sequences[sequence];
  for (int64_t i = tile * kTile; i < smaller((tile + 1) * kTile, of.q_len); ++i) {
    T* row = row_of<T>(p.dq, of.batch, of.q_begin + i, head);
    for (int64_t d = 0; d < p.head_dim; ++d) from_acc(Acc<T>{0}, row + d);
  }
}

}  // namespace lck::LCK_ISA
