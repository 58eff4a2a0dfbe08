// The steps of the backward: a block has two fixed tiles and loops over pairs of tiles, double-buffered.
#pragma once

#include "cuda/attention/attend.cuh"
#include "cuda/attention/query_tiles.cuh"
#include "cuda/attention/score_gradient.cuh"

namespace lck {

// A block has two fixed tiles of kRows rows, 16 kM per warp, and loops over pairs of tiles of kSteps rows, in
// two stages.
template <int kDim_, int kM_ = 1>
struct BackwardShape {
  static constexpr int kDim = kDim_, kM = kM_;
  static constexpr int kRows = kDim <= 128 ? 128 : 64;
  static constexpr int kThreads = kRows / kM * 2;
  static constexpr int kSteps = kDim <= 32 ? 64 : 32;
  static_assert(kRows <= kThreads && kSteps <= kThreads);  // one thread prepares each row
  static constexpr int kTileBytes = SmemTile<kDim>::bytes(2 * kRows + 4 * kSteps);
  static constexpr int kStatsBytes = 4 * kSteps * 8;
  static constexpr int kSmemBytes = kTileBytes + kStatsBytes + kRows * kRowKeysBytes;
};

// Shared memory: the two fixed tiles and the two of each stage; lse and delta, interleaved, of the queries of
// four steps; the visible keys or queries of each row of the block.
template <typename Shape>
struct BackwardTiles {
  static constexpr int kDim = Shape::kDim;
  uint32_t base;

  __device__ __forceinline__ SmemTile<kDim> own(int which) const {
    return {base + SmemTile<kDim>::bytes(which * Shape::kRows)};
  }
  __device__ __forceinline__ SmemTile<kDim> step(int stage, int which) const {
    return {base + SmemTile<kDim>::bytes(2 * Shape::kRows + (2 * stage + which) * Shape::kSteps)};
  }
  __device__ __forceinline__ uint32_t stats(int n, int query) const {
    return base + Shape::kTileBytes + (n % 4 * Shape::kSteps + query) * 8;
  }
  __device__ __forceinline__ uint32_t row(int n) const {
    return base + Shape::kTileBytes + Shape::kStatsBytes + n * kRowKeysBytes;
  }
};

// A tile of queries by keys, as score_gradient requires it; bounds(i, half) are the RowKeys of a lane's row.
template <int kM, bool kFull, typename Bounds>
struct QueriesByKeys {
  int first_query = 0;  // of the lane's first row
  KeyTile keys = {};
  const uint8_t* kv_mask = nullptr;
  QueryStats row[kM] = {};
  Bounds bounds;

  __device__ __forceinline__ bool masked() const { return keys.masked; }
  __device__ __forceinline__ int key(int, int j, int e) const {
    return keys.first + 8 * j + 2 * (static_cast<int>(threadIdx.x) % 4) + e % 2;
  }
  __device__ __forceinline__ int query(int i, int, int e) const { return first_query + 16 * i + 8 * (e / 2); }
  __device__ __forceinline__ static constexpr int stats_of(int e) { return e / 2; }
  __device__ __forceinline__ QueryStats stats(int i, int) const { return row[i]; }
  __device__ __forceinline__ bool seen(const RowKeys& by, int i, int j, int e) const {
    return sees<kFull>(by, keys, kv_mask, key(i, j, e));
  }
};

// copy(n) copies the tiles of step n to stage n % 2; step(n) uses them. There is a barrier of the block
// before and after each step.
template <typename Copy, typename Step>
__device__ __forceinline__ void in_two_stages(int count, const Copy& copy, const Step& step) {
  if (count > 0) copy(0);
  ptx::cp_async_commit();
  for (int n = 0; n < count; ++n) {
    if (n + 1 < count) copy(n + 1);
    ptx::cp_async_commit();
    ptx::cp_async_wait<1>();
    __syncthreads();  // stage n % 2 has arrived
    step(n);
    __syncthreads();  // stage n % 2 is free
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
}

// use(k_tile, ds, tile) for the key tiles 0 to count - 1, tile_at(n): ds, the gradient of the scores of a
// warp's queries, by kSteps keys.
template <typename T, bool kAfterCap, typename Shape, bool kFull, typename Bounds, typename TileAt,
          typename Use>
__device__ __forceinline__ void over_keys(const AttentionParams& p, const GradientRule& rule,
                                          const BackwardTiles<Shape>& smem, const KeyRows<T>& rows,
                                          QueriesByKeys<Shape::kM, kFull, Bounds>& tile, int count,
                                          const TileAt& tile_at, const Use& use) {
  constexpr int kM = Shape::kM, kN = Shape::kSteps / 8;
  using Part = CopyPart<Shape::kThreads, Shape::kDim>;
  const int warp_row = threadIdx.x / 32 * 16 * kM;
  const int64_t first = count > 0 ? tile_at(0).first : 0;
  const T *k = Part::of(rows.k + first * rows.k_stride, rows.k_stride),
          *v = Part::of(rows.v + first * rows.v_stride, rows.v_stride);
  const auto copy = [&](int n) {
    const KeyTile step = tile_at(n);
    const auto valid = [&](int row) {
      return step.has(step.first + row) && (!tile.kv_mask || tile.kv_mask[step.first + row]);
    };
    copy_part<Shape::kSteps, Shape::kThreads>(smem.step(n % 2, 0), k, rows.k_stride, rows.head_dim, valid);
    copy_part<Shape::kSteps, Shape::kThreads>(smem.step(n % 2, 1), v, rows.v_stride, rows.head_dim_v, valid);
    k += step.step * rows.k_stride, v += step.step * rows.v_stride;
  };
  in_two_stages(count, copy, [&](int n) {
    tile.keys = tile_at(n);
    float s[kM][kN][4], ds[kM][kN][4];
    multiply_rows<T>(s, smem.own(0), warp_row, smem.step(n % 2, 0), 0);
    multiply_rows<T>(ds, smem.own(1), warp_row, smem.step(n % 2, 1), 0);
    score_gradient<kFull, false, kAfterCap>(p, rule, s, ds, tile);
    use(smem.step(n % 2, 0), ds, tile);
  });
}

// A tile of keys by queries, as score_gradient requires it; bounds(i, half) are the RowQueries of a lane's
// row.
template <int kM, typename Bounds>
struct KeysByQueries {
  int first_key = 0, first_query = 0;  // of the lane's first row, of the lane's first column
  bool some_unseen = false;
  uint32_t column_stats = 0;  // of the lane's first column, in shared memory
  Bounds bounds;

  __device__ __forceinline__ bool masked() const { return some_unseen; }
  __device__ __forceinline__ int key(int i, int, int e) const { return first_key + 16 * i + 8 * (e / 2); }
  __device__ __forceinline__ int query(int, int j, int e) const { return first_query + 8 * j + e % 2; }
  __device__ __forceinline__ static constexpr int stats_of(int e) { return e % 2; }
  __device__ __forceinline__ QueryStats stats(int, int j) const {
    float r[4];
    ptx::load_shared(r, column_stats + 8 * j * 8);
    return {{r[0], r[2]}, {r[1], r[3]}};
  }
  __device__ __forceinline__ bool seen(const RowQueries& by, int i, int j, int e) const {
    return by.seen_by(query(i, j, e));
  }
};

// The gradients that a block computes: if both do not fit in registers, there is a launch for each.
enum class KeyGradients { kBoth, kKeys, kValues };

// Rows of one head's queries, from the block's first one on.
template <typename T>
struct QueryRows {
  const T *q, *dout;
  int64_t q_stride, dout_stride;
  const float *lse, *delta;
};

// Position in a loop over heads and their query tiles.
struct QueryPlace {
  int head = 0, tile = 0;

  // Moves to the next tile; returns whether it is the next head's.
  __device__ __forceinline__ bool advance(int tiles) {
    if (++tile < tiles) return false;
    tile = 0, ++head;
    return true;
  }
};

// The same with pointers to the rows of the tile's first query.
template <typename T>
struct QueryCursor {
  QueryRows<T> rows;
  QueryPlace at{};

  template <typename RowsOf>
  __device__ __forceinline__ void advance(int queries_a_tile, int tiles, const RowsOf& rows_of) {
    if (at.advance(tiles)) {
      rows = rows_of(at.head);
      return;
    }
    rows.q += queries_a_tile * rows.q_stride, rows.dout += queries_a_tile * rows.dout_stride;
    rows.lse += queries_a_tile, rows.delta += queries_a_tile;
  }
};

// Adds the tiles of `heads` heads' queries to the gradients of a block's keys: rows_of(head) are the head's
// QueryRows, rule_of(head) its GradientRule.
//
// lse and delta are loaded two steps before their use, since the copy of a query depends on its lse.
template <typename T, bool kFull, KeyGradients kWhich, typename Shape, typename Bounds, typename RowsOf,
          typename RuleOf>
__device__ __forceinline__ void over_queries(const AttentionParams& p, const BackwardTiles<Shape>& smem,
                                             KeysByQueries<Shape::kM, Bounds>& tile,
                                             const QueryTiles& queries, int heads, const RowsOf& rows_of,
                                             const RuleOf& rule_of,
                                             float (&dk)[Shape::kM][Shape::kDim / 8][4],
                                             float (&dv)[Shape::kM][Shape::kDim / 8][4]) {
  constexpr int kM = Shape::kM, kN = Shape::kSteps / 8, kDim = Shape::kDim;
  constexpr bool kWithKeys = kWhich != KeyGradients::kValues, kWithValues = kWhich != KeyGradients::kKeys;
  const int count = heads * queries.count, mine = threadIdx.x, column = 2 * (mine % 4);
  const int warp_row = mine / 32 * 16 * kM;
  using Part = CopyPart<Shape::kThreads, kDim>;
  const auto my_rows = [&](int head) {
    QueryRows<T> rows = rows_of(head);
    rows.q = Part::of(rows.q, rows.q_stride), rows.dout = Part::of(rows.dout, rows.dout_stride);
    rows.lse += mine, rows.delta += mine;
    return rows;
  };
  QueryCursor<T> copied{my_rows(0)}, loaded{copied.rows};
  QueryPlace used;
  // lse and delta of one query per thread; -inf and 0 without a query.
  const auto load_stats = [&](int n) {
    OneQuery raw{-INFINITY, 0};
    const int query = queries.begin + loaded.at.tile * Shape::kSteps + mine;
    if (n < count && mine < Shape::kSteps && query < queries.end) {
      raw = {*loaded.rows.lse, *loaded.rows.delta};
    }
    loaded.advance(Shape::kSteps, queries.count, my_rows);
    return raw;
  };
  const auto store_stats = [&](int n, const OneQuery& raw) {
    if (mine >= Shape::kSteps) return;
    const OneQuery stats = OneQuery::of(raw.lse, raw.delta);
    ptx::store_shared(smem.stats(n, mine), stats.lse);
    ptx::store_shared(smem.stats(n, mine) + 4, stats.delta);
  };
  const auto copy = [&](int n) {
    // A query without probabilities is not read.
    const auto reads = [&](int row) { return is_finite(ptx::load_shared_float(smem.stats(n, row))); };
    copy_part<Shape::kSteps, Shape::kThreads>(smem.step(n % 2, 0), copied.rows.q, copied.rows.q_stride,
                                              static_cast<int>(p.head_dim), reads);
    copy_part<Shape::kSteps, Shape::kThreads>(smem.step(n % 2, 1), copied.rows.dout, copied.rows.dout_stride,
                                              static_cast<int>(p.head_dim_v), reads);
    copied.advance(Shape::kSteps, queries.count, my_rows);
  };
  store_stats(0, load_stats(0));
  store_stats(1, load_stats(1));
  __syncthreads();  // of the first two steps lse and delta are there
  in_two_stages(count, copy, [&](int n) {
    const OneQuery ahead = load_stats(n + 2);
    tile.first_query = queries.begin + used.tile * Shape::kSteps + column;
    tile.some_unseen = used.tile < queries.clear || used.tile >= queries.clear_end;
    tile.column_stats = smem.stats(n, column);
    float s[kM][kN][4], ds[kM][kN][4] = {};
    multiply_rows<T>(s, smem.own(0), warp_row, smem.step(n % 2, 0), 0);
    if (kWithKeys) multiply_rows<T>(ds, smem.own(1), warp_row, smem.step(n % 2, 1), 0);
    score_gradient<kFull, true, false>(p, rule_of(used.head), s, ds, tile);
    if (kWithValues) add_product<T, kM, kN, kDim>(dv, s, smem.step(n % 2, 1), 0);
    if (kWithKeys) add_product<T, kM, kN, kDim>(dk, ds, smem.step(n % 2, 0), 0);
    used.advance(queries.count);
    store_stats(n + 2, ahead);
  });
}

}  // namespace lck
