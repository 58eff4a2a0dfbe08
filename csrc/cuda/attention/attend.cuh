// Online softmax over a sequence of key tiles.
#pragma once

#include "cuda/attention/dropout.cuh"
#include "cuda/attention/key_tiles.cuh"
#include "cuda/attention/score.cuh"
#include "cuda/attention/tile.cuh"

namespace lck {

// An online softmax of the rows of a warp, of scores times log2(e): base, the largest score at its last
// update, and the sum of exp2(s - base).
template <int kM>
struct Softmax {
  float base[kM][2], sum[kM][2];
  bool large;  // some base of the warp is so large that scores must be rounded before it is subtracted

  // The state without keys.
  __device__ __forceinline__ static Softmax none() {
    Softmax state;
    state.large = false;
#pragma unroll
    for (int i = 0; i < kM; ++i) {
      state.base[i][0] = state.base[i][1] = -INFINITY, state.sum[i][0] = state.sum[i][1] = 0;
    }
    return state;
  }
};

// The most, times log2(e), that scores may exceed the base: sums cannot overflow, in fp16 neither. The
// rounding of a base above kLargeBase may exceed a tenth; a multiplication fused with the subtraction would
// not have it.
inline constexpr float kHeadroom = 8, kLargeBase = 1 << 20;

// s (scores divided by `scale` > 0) becomes exp2(scale s - base). If a score exceeds the base by too much,
// the sums are rescaled to a new base. Source of the rare update: FlashAttention-4.
template <int kM, int kN, int kDim>
__device__ __forceinline__ void add_scores(Softmax<kM>& state, float scale, float (&s)[kM][kN][4],
                                           float (&out)[kM][kDim / 8][4]) {
  float most[kM][2];
  bool above = false;
#pragma unroll
  for (int i = 0; i < kM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float row = -INFINITY;
#pragma unroll
      for (int j = 0; j < kN; ++j) row = fmaxf(row, fmaxf(s[i][j][2 * half], s[i][j][2 * half + 1]));
      most[i][half] = fmaxf(state.base[i][half], row_max(row) * scale);
      above |= most[i][half] > state.base[i][half] + kHeadroom;
    }
  }
  if (__any_sync(0xffffffffu, above)) {
    bool large = false;
#pragma unroll
    for (int i = 0; i < kM; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float base = most[i][half];
        const float decay = base == -INFINITY ? 0.0f : ptx::exp2_approx(state.base[i][half] - base);
        state.base[i][half] = base, state.sum[i][half] *= decay;
        large |= fabsf(base) > kLargeBase && base != -INFINITY;
#pragma unroll
        for (int j = 0; j < kDim / 8; ++j) out[i][j][2 * half] *= decay, out[i][j][2 * half + 1] *= decay;
      }
    }
    state.large = __any_sync(0xffffffffu, large);
  }
  if (state.large) {
    for_each_element<kM, kN>([&](int i, int j, int e) { s[i][j][e] *= scale; });
    scale = 1;
  }
#pragma unroll
  for (int i = 0; i < kM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float base = state.base[i][half] == -INFINITY ? 0.0f : state.base[i][half];
      float sum = 0;
#pragma unroll
      for (int j = 0; j < kN; ++j) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          sum += s[i][j][e] = ptx::exp2_approx(fmaf(s[i][j][e], scale, -base));
        }
      }
      state.sum[i][half] += sum;
    }
  }
}

// Rows of k and v of one head, from key 0 on.
template <typename T>
struct KeyRows {
  const T *k, *v;
  int64_t k_stride, v_stride;
  int head_dim, head_dim_v;

  __device__ __forceinline__ static KeyRows of(const AttentionParams& p, int64_t batch, int64_t row,
                                               int64_t kv_head) {
    return {row_of<T>(p.k, batch, row, kv_head),
            row_of<T>(p.v, batch, row, kv_head),
            p.k.row_stride,
            p.v.row_stride,
            static_cast<int>(p.head_dim),
            static_cast<int>(p.head_dim_v)};
  }
};

// The operands of the softmax in shared memory.
template <int kDim>
struct AttendTiles {
  SmemTile<kDim> q, k, v;

  // Uses all dynamic shared memory of the block.
  __device__ __forceinline__ static AttendTiles of(int queries, int keys) {
    const uint32_t q = ptx::smem_address(ptx::dynamic_smem()), k = q + SmemTile<kDim>::bytes(queries);
    return {{q}, {k}, {k + SmemTile<kDim>::bytes(keys)}};
  }
};

// Adds the keys of tiles 0 to count - 1, tile_at(n), to the softmax of a warp's rows and to out, its sum of
// exp2(s - base) v. A key is read if valid(key). to_scores(s, tile) converts products to scores times
// log2(e) divided by `scale`, -inf where a row does not see the key; drop(s, tile) sets dropped elements to
// 0.
template <typename Shape, typename T, int kM, int kDim, typename TileAt, typename Valid, typename ToScores,
          typename Drop>
__device__ __forceinline__ void attend_keys(Softmax<kM>& state, float (&out)[kM][kDim / 8][4],
                                            const AttendTiles<kDim>& tiles, const KeyRows<T>& rows, int count,
                                            const TileAt& tile_at, const Valid& valid, float scale,
                                            const ToScores& to_scores, const Drop& drop) {
  constexpr int kN = Shape::kKeys / 8;
  const int warp_row = threadIdx.x / 32 * 16 * kM;
  using Part = CopyPart<Shape::kThreads, kDim>;
  const int64_t first = count > 0 ? tile_at(0).first : 0;
  const T *k = Part::of(rows.k + first * rows.k_stride, rows.k_stride),
          *v = Part::of(rows.v + first * rows.v_stride, rows.v_stride);
  const auto copy = [&](const SmemTile<kDim>& to, const T*& from, int64_t stride, int dims,
                        const KeyTile& tile) {
    copy_part<Shape::kKeys, Shape::kThreads>(to, from, stride, dims, [&](int row) {
      return tile.has(tile.first + row) && valid(tile.first + row);
    });
    ptx::cp_async_commit();
    from += tile.step * stride;
  };
  if (count > 0) copy(tiles.k, k, rows.k_stride, rows.head_dim, tile_at(0));
  for (int n = 0; n < count; ++n) {
    const KeyTile tile = tile_at(n);
    ptx::cp_async_wait<0>();
    __syncthreads();  // tiles.k has arrived; tiles.v is free
    copy(tiles.v, v, rows.v_stride, rows.head_dim_v, tile);
    float s[kM][kN][4];
    multiply_rows<T>(s, tiles.q, warp_row, tiles.k, 0);
    to_scores(s, tile);
    add_scores<kM, kN, kDim>(state, scale, s, out);
    drop(s, tile);
    ptx::cp_async_wait<0>();
    __syncthreads();  // tiles.v has arrived; tiles.k is free
    if (n + 1 < count) copy(tiles.k, k, rows.k_stride, rows.head_dim, tile_at(n + 1));
    add_product<T, kM, kN, kDim>(out, s, tiles.v, 0);
  }
  ptx::cp_async_wait<0>();
  __syncthreads();  // all tiles are free
}

}  // namespace lck
