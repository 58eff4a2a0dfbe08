// Few rows against keys that are read in place, without packing: key tiles > (S of all heads: key > head) >
// softmax > (O of all heads: keys > head), in memory order, which the hardware prefetcher follows. Included
// only by files that are compiled once per instruction set.
#pragma once

#include "cpu/attention/kernel/forward.h"

namespace lck::LCK_ISA {

// Rows of all heads of a task, in order.
template <typename A>
struct InPlaceScratch {
  A* q;          // (rows, head_dim), in groups (vec.h)
  A* parts;      // (rows, lanes, lanes), the partial sums by lane of each score of a vector of keys
  A *s, *probs;  // (rows, kTile)
  A* tile_out;   // (rows, head_dim_v), one tile's contribution to O, in groups
  A* sums;       // (states, lanes), the rows' sums before a tile
  A* bases;      // (states), their bases

  static InPlaceScratch of(Arena* arena, const AttentionParams& p) {
    constexpr int64_t rows = kMostTileRows;
    InPlaceScratch x;
    x.q = arena->take<A>(rows * p.head_dim);
    x.parts = arena->take<A>(rows * kLanes<A> * kLanes<A>);
    x.s = arena->take<A>(rows * kTile);
    x.probs = arena->take<A>(rows * kTile);
    x.tile_out = arena->take<A>(rows * p.head_dim_v);
    x.sums = arena->take<A>(kMostBlocks * kRows * kLanes<A>);
    x.bases = arena->take<A>(kMostBlocks * kRows);
    return x;
  }
};

// The operands of a task of few rows.
template <typename U, typename T>
struct InPlaceTask {
  const AttentionParams& p;
  const Sequence& sequence;
  const QueryTask& task;
  int blocks;  // of one head
  const ForwardScratch<U>& x;
  const InPlaceScratch<AccOf<U>>& own;

  // each(kv_head, block, its first state, its first row among all heads' rows)
  template <typename Each>
  void for_blocks(const Each& each) const {
    for (int64_t h = 0; h < task.heads; ++h) {
      for (int b = 0; b < blocks; ++b) {
        const int index = static_cast<int>(h) * blocks + b;
        each(task.kv_head + h, x.blocks[index], state_row(index, 0), h * task.rows + int64_t{b} * kRows);
      }
    }
  }
};

// Rows of the task's first head for keys [first, first + lanes); a key outside of `keys`, whose score is
// masked, is replaced by the nearest inside.
template <typename A, typename T>
struct NearRows {
  const T* at[kLanes<A>];
  int64_t head_stride;
  int64_t ahead;      // from a row to the one that is prefetched while it is read
  bool head_by_head;  // a head's rows are contiguous

  static NearRows of(const HeadsTensor& x, const Sequence& sequence, int64_t kv_head, Span keys,
                     int64_t first) {
    NearRows rows;
    for (int i = 0; i < kLanes<A>; ++i) {
      const int64_t j = smaller(larger(first + i, keys.begin), keys.end - 1);
      rows.at[i] = row_of<const T>(x, sequence.batch, sequence.k_begin + j, kv_head);
    }
    rows.head_stride = x.head_stride;
    rows.ahead = kPrefetchRows * x.row_stride;
    rows.head_by_head = x.row_stride < x.head_stride;
    return rows;
  }

  // each(head, key) for `step` keys at a time in memory order.
  template <typename Each>
  void in_order(int64_t heads, int step, const Each& each) const {
    if (head_by_head) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int n = 0; n < kLanes<A>; n += step) each(h, n);
      }
    } else {
      for (int n = 0; n < kLanes<A>; n += step) {
        for (int64_t h = 0; h < heads; ++h) each(h, n);
      }
    }
  }
};

// Loads the group at p and prefetches the bytes ahead of it into the second-level cache, so that memory
// traffic overlaps with arithmetic.
template <typename T>
inline Group<T> load_and_fetch(const T* p, int64_t ahead) {
  __builtin_prefetch(p + ahead, 0, 2);
  return load(p);
}

// Keys for which one load of Q is used.
template <int R>
inline constexpr int kScoreKeys = R == 1 ? 1 : 2;

// parts (R, lanes, lanes): the partial sums by lane of the products of R rows of Q, in groups, and some keys.
template <int R, typename A, typename T>
__attribute__((always_inline)) inline void score_keys(const A* q, int64_t dim, const T* const* keys,
                                                      int64_t offset, int64_t ahead, A* parts) {
  constexpr int L = kLanes<A>, G = kGroup<T>, N = kScoreKeys<R>;
  Vec<A> acc[R][N] = {};
#pragma GCC unroll 4
  for (int64_t d = 0; d < dim; d += kGroupElements<T>) {
    Group<T> x[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) x[n] = load_and_fetch(keys[n] + offset + d, ahead);
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) {
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const Vec<A> row = load_bytes<Vec<A>>(q + r * dim + d + g * L);
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) acc[r][n] += row * x[n].v[g];
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) store(acc[r][n], parts + (r * L + n) * L);
  }
}

// Keys that add to an accumulator between its load and its store.
template <int R, typename A>
inline constexpr int kValueKeys = R <= 2 && kLanes<A> > 2 ? 4 : 2;

// out (R, dim) += P V, in groups; probs (R, kTile).
template <int R, typename A, typename T>
__attribute__((always_inline)) inline void add_values(const A* probs, const T* const* values, int64_t offset,
                                                      int64_t ahead, int64_t dim, A* out) {
  constexpr int L = kLanes<A>, G = kGroup<T>, N = kValueKeys<R, A>;
  Vec<A> prob[R][N];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) prob[r][n] = splat(probs[r * kTile + n]);
  }
#pragma GCC unroll 2
  for (int64_t d = 0; d < dim; d += kGroupElements<T>) {
    Vec<A> acc[R][G];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) acc[r][g] = load_bytes<Vec<A>>(out + r * dim + d + g * L);
    }
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const Group<T> x = load_and_fetch(values[n] + offset + d, ahead);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
        for (int g = 0; g < G; ++g) acc[r][g] += prob[r][n] * x.v[g];
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) store(acc[r][g], out + r * dim + d + g * L);
    }
  }
}

// each.operator()<R>(first row) for parts of at most kMost rows.
template <int kMost, typename Each>
inline void by_pieces(int rows, const Each& each) {
  int r = 0;
  for (; r + kMost <= rows; r += kMost) each.template operator()<kMost>(r);
  if constexpr (kMost > 1) {
    if (r + kMost / 2 <= rows) each.template operator()<kMost / 2>(r), r += kMost / 2;
    if (r < rows) each.template operator()<1>(r);
  }
}

// S of every head into own.s, columns `hull`. Returns whether all scores are finite, which requires all
// elements of K to be.
template <typename U, typename T>
bool scores_in_place(const InPlaceTask<U, T>& t, int64_t n0, Span keys, Span hull) {
  using A = AccOf<U>;
  constexpr int L = kLanes<A>;
  VecInt<A> bad{};
  for (int64_t c = hull.begin; c < hull.end; c += L) {
    const auto near = NearRows<A, T>::of(t.p.k, t.sequence, t.task.kv_head, keys, n0 + c);
    by_pieces<4>(static_cast<int>(t.task.rows), [&]<int R>(int r) {
      near.in_order(t.task.heads, kScoreKeys<R>, [&](int64_t h, int n) {
        const int64_t row = h * t.task.rows + r;
        score_keys<R>(t.own.q + row * t.p.head_dim, t.p.head_dim, near.at + n, h * near.head_stride,
                      near.ahead, t.own.parts + (row * L + n) * L);
      });
    });
    for (int64_t row = 0; row < t.task.heads * t.task.rows; ++row) {
      Vec<A> parts[L];
      for (int n = 0; n < L; ++n) parts[n] = load_bytes<Vec<A>>(t.own.parts + (row * L + n) * L);
      const Vec<A> scores = lane_sums<A>(parts);
      bad |= scores - scores != A{0};
      store(scores, t.own.s + row * kTile + c);
    }
  }
  return !any<A>(bad);
}

// P V of every head into own.tile_out. Returns whether the result is finite, which requires all values to be,
// for any P.
template <typename U, typename T>
bool values_in_place(const InPlaceTask<U, T>& t, int64_t n0, Span keys, Span hull) {
  using A = AccOf<U>;
  constexpr int L = kLanes<A>;
  const int64_t dim = t.p.head_dim_v, size = t.task.heads * t.task.rows * dim;
  for (int64_t i = 0; i < size; i += L) store(Vec<A>{}, t.own.tile_out + i);
  for (int64_t c = hull.begin; c < hull.end; c += L) {
    const auto near = NearRows<A, T>::of(t.p.v, t.sequence, t.task.kv_head, keys, n0 + c);
    by_pieces<kGroup<T> == 1 ? 4 : 2>(static_cast<int>(t.task.rows), [&]<int R>(int r) {
      near.in_order(t.task.heads, kValueKeys<R, A>, [&](int64_t h, int n) {
        const int64_t row = h * t.task.rows + r;
        add_values<R>(t.own.probs + row * kTile + c + n, near.at + n, h * near.head_stride, near.ahead, dim,
                      t.own.tile_out + row * dim);
      });
    });
  }
  VecInt<A> bad{};
  for (int64_t i = 0; i < size; i += L) {
    const Vec<A> x = load_bytes<Vec<A>>(t.own.tile_out + i);
    bad |= x - x != A{0};
  }
  return !any<A>(bad);
}

// Whether a task's keys can be read in place.
template <typename U, typename T>
inline bool reads_in_place(const AttentionParams& p, const QueryTask& task) {
  const auto whole = [](int64_t dim) { return dim % kGroupElements<T> == 0; };
  return !task.packed.data && reads_in_place(p, task.rows) && whole(p.head_dim) && whole(p.head_dim_v);
}

// All rows against the key tile from key n0. Returns false if something is not finite: the tile must then be
// packed, which marks what is not; rows' bases may have been raised, which does not change their results.
template <typename U, typename T>
bool attend_in_place(const InPlaceTask<U, T>& t, int64_t n0) {
  using A = AccOf<U>;
  constexpr int L = kLanes<A>;
  Span keys{0, 0};
  for (int b = 0; b < t.blocks; ++b) keys = lck::hull(keys, t.x.blocks[b].keys(n0));
  if (empty(keys)) return true;
  const Span hull{(keys.begin - n0) / L * L, round_up(keys.end - n0, L)};
  if (!scores_in_place(t, n0, keys, hull)) return false;
  int32_t none = 0;
  KeyTile<U> plain{};
  plain.special = &none;
  t.for_blocks([&](int64_t, RowBlock& block, int64_t state, int64_t row) {
    for (int r = 0; r < block.rows; ++r) {
      store(load_bytes<Vec<A>>(t.x.row_sum + (state + r) * L), t.own.sums + (state + r) * L);
      t.own.bases[state + r] = t.x.row_base[state + r];
    }
    probabilities<U>(t.p, t.sequence, n0, plain, block, state, hull, t.own.s + row * kTile,
                     AsAccumulators<A>{t.own.probs + row * kTile}, t.x);
  });
  const int64_t dim = t.p.head_dim_v;
  const bool finite = values_in_place(t, n0, keys, hull);
  t.for_blocks([&](int64_t, const RowBlock& block, int64_t state, int64_t row) {
    for (int r = 0; r < block.rows; ++r) {
      A* out = t.x.out + (state + r) * dim;
      const A* tile_out = t.own.tile_out + (row + r) * dim;
      if (!finite) {
        // out and the base remain as raised by this tile.
        const A before = t.own.bases[state + r], base = t.x.row_base[state + r];
        const Vec<A> sum = load_bytes<Vec<A>>(t.own.sums + (state + r) * L);
        const bool raised = before != base && before != -kInf<A>;
        store(raised ? sum * exp(splat(before) - base) : sum, t.x.row_sum + (state + r) * L);
        continue;
      }
      for (int64_t d = 0; d < dim; d += kGroupElements<T>) {
        Group<T> x;
        for (int g = 0; g < kGroup<T>; ++g) x.v[g] = load_bytes<Vec<A>>(tile_out + d + g * L);
        in_element_order(&x);
        for (int g = 0; g < kGroup<T>; ++g) {
          A* to = out + d + g * L;
          store(load_bytes<Vec<A>>(to) + x.v[g], to);
        }
      }
    }
  });
  return finite;
}

// Loads the task's rows of Q into own.q.
template <typename U, typename T>
void stage_queries(const InPlaceTask<U, T>& t) {
  using A = AccOf<U>;
  t.for_blocks([&](int64_t, const RowBlock& block, int64_t, int64_t row) {
    for (int r = 0; r < block.rows; ++r) {
      const T* from = row_of<const T>(t.p.q, t.sequence.batch, t.sequence.q_begin + block.row[r].query,
                                      block.row[r].head);
      A* to = t.own.q + (row + r) * t.p.head_dim;
      for (int64_t d = 0; d < t.p.head_dim; d += kGroupElements<T>) {
        const Group<T> x = load(from + d);
        for (int g = 0; g < kGroup<T>; ++g) store(x.v[g], to + d + g * kLanes<A>);
      }
    }
  });
}

}  // namespace lck::LCK_ISA
