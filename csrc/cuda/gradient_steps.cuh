// The steps of the backward: a block keeps two tiles and runs over two others, which come in two stages.
#pragma once

#include "cuda/attend.cuh"
#include "cuda/query_tiles.cuh"
#include "cuda/score_gradient.cuh"

namespace lck {

// A block keeps two tiles of kRows rows, 16 a warp, and runs over two of kSteps, which come in two stages.
template <int kDim>
struct BackwardShape {
  static constexpr int kWarps = kDim <= 128 ? 8 : 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kRows = 16 * kWarps;
  static constexpr int kSteps = kDim <= 32 ? 64 : 32;
  static constexpr int kSmemBytes = SmemTile<kDim>::bytes(2 * kRows + 4 * kSteps);
};

// Shared memory: the two tiles that stay, and the two of each stage.
template <int kDim>
struct BackwardTiles {
  using Shape = BackwardShape<kDim>;
  uint32_t base;

  __device__ __forceinline__ SmemTile<kDim> own(int which) const {
    return {base + SmemTile<kDim>::bytes(which * Shape::kRows)};
  }
  __device__ __forceinline__ SmemTile<kDim> step(int stage, int which) const {
    return {base + SmemTile<kDim>::bytes(2 * Shape::kRows + (2 * stage + which) * Shape::kSteps)};
  }
};

// A tile of queries by keys, as score_gradient asks for it.
template <bool kFull>
struct QueriesByKeys {
  int first_query;  // of the lane's first row
  KeyTile keys;
  const uint8_t* kv_mask;
  RowKeys row[2];
  float row_lse[2], row_delta[2];

  __device__ __forceinline__ bool masked() const { return keys.masked; }
  __device__ __forceinline__ int key(int, int j, int e) const {
    return keys.first + 8 * j + 2 * (static_cast<int>(threadIdx.x) % 4) + e % 2;
  }
  __device__ __forceinline__ int query(int, int, int e) const { return first_query + 8 * (e / 2); }
  __device__ __forceinline__ float lse(int, int, int e) const { return row_lse[e / 2]; }
  __device__ __forceinline__ float delta(int, int, int e) const { return row_delta[e / 2]; }
  __device__ __forceinline__ bool seen(int i, int j, int e) const {
    return sees<kFull>(row[e / 2], keys, kv_mask, key(i, j, e));
  }
};

// copy(n) brings what step n needs into stage n % 2; step(n) uses it. A barrier of the block lies before and
// behind each step.
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
// warp's 16 queries, by kSteps keys.
template <typename T, int kDim, bool kFull, bool kBehindCap, typename TileAt, typename Use>
__device__ __forceinline__ void over_keys(const AttentionParams& p, const GradientRule& rule,
                                          const BackwardTiles<kDim>& smem, const KeyRows<T>& rows,
                                          QueriesByKeys<kFull>& tile, int count, const TileAt& tile_at,
                                          const Use& use) {
  using Shape = BackwardShape<kDim>;
  constexpr int kN = Shape::kSteps / 8;
  const auto copy = [&](int n) {
    const KeyTile step = tile_at(n);
    const auto valid = [&](int row) {
      return step.has(step.first + row) && (!tile.kv_mask || tile.kv_mask[step.first + row]);
    };
    copy_rows<Shape::kSteps, Shape::kThreads>(smem.step(n % 2, 0), rows.k + step.first * rows.k_stride,
                                              rows.k_stride, rows.head_dim, valid);
    copy_rows<Shape::kSteps, Shape::kThreads>(smem.step(n % 2, 1), rows.v + step.first * rows.v_stride,
                                              rows.v_stride, rows.head_dim_v, valid);
  };
  in_two_stages(count, copy, [&](int n) {
    tile.keys = tile_at(n);
    float s[1][kN][4], ds[1][kN][4];
    multiply_rows<T>(s, smem.own(0), threadIdx.x / 32 * 16, smem.step(n % 2, 0), 0);
    multiply_rows<T>(ds, smem.own(1), threadIdx.x / 32 * 16, smem.step(n % 2, 1), 0);
    score_gradient<kFull, false, kBehindCap>(p, rule, s, ds, tile);
    use(smem.step(n % 2, 0), ds, tile);
  });
}

// A tile of keys by queries, as score_gradient asks for it.
struct KeysByQueries {
  int first_key, first_query;  // of the lane's first row, of the tile
  int num_queries;             // of the text
  bool some_unseen;
  RowQueries row[2];
  const float *lse_rows, *delta_rows;  // of the text's queries

  __device__ __forceinline__ bool masked() const { return some_unseen; }
  __device__ __forceinline__ int key(int, int, int e) const { return first_key + 8 * (e / 2); }
  __device__ __forceinline__ int query(int, int j, int e) const {
    return first_query + 8 * j + 2 * (static_cast<int>(threadIdx.x) % 4) + e % 2;
  }
  __device__ __forceinline__ float lse(int i, int j, int e) const {
    const int q = query(i, j, e);
    return q < num_queries ? lse_log2(lse_rows[q]) : INFINITY;
  }
  __device__ __forceinline__ float delta(int i, int j, int e) const {
    const int q = query(i, j, e);
    // Without probabilities, what its delta holds does not count.
    return q < num_queries && fabsf(lse_rows[q]) != INFINITY ? delta_rows[q] : 0.0f;
  }
  __device__ __forceinline__ bool seen(int i, int j, int e) const {
    return row[e / 2].seen_by(query(i, j, e));
  }
};

// Which gradients a block makes: where both do not fit into registers, it is launched once for each.
enum class KeyGradients { kBoth, kKeys, kValues };

// The queries of a step: those of one head of a text from `first` on, of which those before `end` are read.
template <typename T>
struct QueryStep {
  const T *q, *dout;  // of the text's first query
  int64_t q_stride, dout_stride;
  const float *lse, *delta;  // of the text's first query
  int first, end;
  bool masked;
};

// Adds the queries of steps 0 to count - 1 to the gradients of a block's keys: step_at(n) is a QueryStep,
// rule_of(n) its GradientRule.
template <typename T, int kDim, bool kFull, KeyGradients kWhich, typename StepAt, typename RuleOf>
__device__ __forceinline__ void over_queries(const AttentionParams& p, const BackwardTiles<kDim>& smem,
                                             KeysByQueries& tile, int count, const StepAt& step_at,
                                             const RuleOf& rule_of, float (&dk)[1][kDim / 8][4],
                                             float (&dv)[1][kDim / 8][4]) {
  using Shape = BackwardShape<kDim>;
  constexpr int kN = Shape::kSteps / 8;
  constexpr bool kWithKeys = kWhich != KeyGradients::kValues, kWithValues = kWhich != KeyGradients::kKeys;
  const auto copy = [&](int n) {
    const QueryStep<T> step = step_at(n);
    // A query without probabilities is not read.
    const auto reads = [&](int row) {
      return step.first + row < step.end && is_finite_lse(step.lse[step.first + row]);
    };
    copy_rows<Shape::kSteps, Shape::kThreads>(smem.step(n % 2, 0), step.q + step.first * step.q_stride,
                                              step.q_stride, static_cast<int>(p.head_dim), reads);
    copy_rows<Shape::kSteps, Shape::kThreads>(smem.step(n % 2, 1), step.dout + step.first * step.dout_stride,
                                              step.dout_stride, static_cast<int>(p.head_dim_v), reads);
  };
  in_two_stages(count, copy, [&](int n) {
    const QueryStep<T> step = step_at(n);
    tile.first_query = step.first, tile.num_queries = step.end, tile.some_unseen = step.masked;
    tile.lse_rows = step.lse, tile.delta_rows = step.delta;
    float s[1][kN][4], ds[1][kN][4] = {};
    multiply_rows<T>(s, smem.own(0), threadIdx.x / 32 * 16, smem.step(n % 2, 0), 0);
    if (kWithKeys) multiply_rows<T>(ds, smem.own(1), threadIdx.x / 32 * 16, smem.step(n % 2, 1), 0);
    score_gradient<kFull, true, false>(p, rule_of(n), s, ds, tile);
    if (kWithValues) add_product<T, 1, kN, kDim>(dv, s, smem.step(n % 2, 1), 0);
    if (kWithKeys) add_product<T, 1, kN, kDim>(dk, ds, smem.step(n % 2, 0), 0);
  });
}

}  // namespace lck
