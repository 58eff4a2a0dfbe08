// Backward of windowed attention: strips of keys > heads of the group > query tiles > key tiles of the strip,
// five products a pair (key_grad.h). A strip owns its dk and dv; dq of a query tile that several strips see
// is left in parts, which are added in the strips' order. Included only by files that are compiled once per
// instruction set.
#pragma once

#include "cpu/attention/key_grad.h"

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

// Rows [0, count) of dq (rows, columns) for queries from i0 on.
template <typename U, typename T>
inline void store_dq(const AttentionParams& p, const Text& text, int64_t head, int64_t i0, int64_t count,
                     const AccOf<U>* dq) {
  using A = AccOf<U>;
  for (int64_t f = 0; f < count; ++f) {
    store_row(dq + f * padded_columns<U>(p.head_dim), static_cast<A>(p.softmax_scale), p.head_dim,
              row_of<T>(p.dq, text.batch, text.q_begin + i0 + f, head));
  }
}

template <typename U>
inline int64_t dq_tile_elements(const AttentionParams& p) {
  return kTile * padded_columns<U>(p.head_dim);
}

template <typename U, typename T>
void strip_task(const AttentionParams& p, const StripTask& task, void* scratch) {
  using A = AccOf<U>;
  Arena arena{static_cast<char*>(scratch)};
  const int64_t rows = task.keys.end - task.keys.begin, group = p.num_heads / p.num_kv_heads;
  auto x = KeyGradScratch<U>::of(&arena, p, (rows + kTile - 1) / kTile);
  const Text& text = p.texts[task.text];
  A* dbias = p.dbias ? static_cast<A*>(p.dbias) + task.bias_slot * p.num_heads * p.bias_len : nullptr;
  begin_key_rows<U, T>(p, text, task.kv_head, task.keys.begin, rows, x);
  const auto state = [&](QueryRow row) {
    const int64_t i = lse_index(p, text, row);
    return RowState<A>{state_lse(static_cast<const A*>(p.lse)[i]), static_cast<const A*>(p.delta)[i]};
  };
  const auto sees = [&](QueryRow row) { return keys_seen(p, text, row.query + text.offset); };
  A* part = static_cast<A*>(task.parts);
  for (int64_t t = task.tiles.begin; t < task.tiles.end; ++t) {
    const bool shared = task.shared[t];
    for (int64_t head = task.kv_head * group; head < (task.kv_head + 1) * group; ++head) {
      pack_query_tile<U, T>(p, text, head, t * kTile, &x, state, sees);
      x.clear_dq(p);
      grad_pairs<U>(p, text, task.keys.begin, rows, dbias, x);
      if (shared) {
        std::memcpy(part, x.dq, dq_tile_elements<U>(p) * sizeof(A));
        part += dq_tile_elements<U>(p);
      } else {
        store_dq<U, T>(p, text, head, t * kTile, smaller(kTile, text.q_len - t * kTile), x.dq);
      }
    }
  }
  store_key_rows<U, T>(p, text, task.kv_head, task.keys.begin, rows, x);
}

// dq of a query tile and head from `count` parts, none of which gives 0.
template <typename U, typename T>
void merge_dq_task(const AttentionParams& p, int64_t text, int64_t head, int64_t tile,
                   const void* const* parts, int64_t count, void* scratch) {
  using A = AccOf<U>;
  const int64_t elements = dq_tile_elements<U>(p);
  A* total = static_cast<A*>(scratch);
  for (int64_t i = 0; i < elements; i += kLanes<A>) {
    Vec<A> sum{};
    for (int64_t n = 0; n < count; ++n) sum += load_bytes<Vec<A>>(static_cast<const A*>(parts[n]) + i);
    store(sum, total + i);
  }
  const Text& of = p.texts[text];
  store_dq<U, T>(p, of, head, tile * kTile, smaller(kTile, of.q_len - tile * kTile), total);
}

}  // namespace lck::LCK_ISA
