// From two products of a tile, q.k and dout.v, to probabilities and the gradient of the scores. Rows of the
// tile may be queries or keys.
#pragma once

#include "cuda/attention/dropout.cuh"
#include "cuda/attention/score.cuh"
#include "cuda/attention/tile.cuh"

namespace lck {

__device__ __forceinline__ bool is_finite(float x) {
  return x - x == 0;
}

// Statistics of a query: its lse times log2(e), and delta. A query without probabilities, because it sees no
// key or has weight 0 in a chunked attention, has lse inf and delta 0.
struct OneQuery {
  float lse, delta;

  __device__ __forceinline__ static OneQuery of(float lse, float delta) {
    const bool without = fabsf(lse) == INFINITY;
    return {without ? INFINITY : lse * kLog2E, without ? 0.0f : delta};
  }
};

// The statistics of two queries of a fragment.
struct QueryStats {
  float lse[2], delta[2];
};

// Constants of the gradients of one head in one sequence.
struct GradientRule {
  ScoreRule score;
  DropoutRule dropout;
  int64_t head, offset;

  __device__ __forceinline__ static GradientRule of(const GpuAttentionParams& a, const Sequence& sequence,
                                                    int64_t head) {
    return {ScoreRule::of(a.p, head, sequence.offset), DropoutRule::of(a, sequence, head), head,
            sequence.offset};
  }
};

// s: products q.k, replaced by probabilities after dropout. ds: products dout.v, replaced by the gradient of
// the scores: after the softcap with kAfterCap, otherwise before it. Both are 0 where
// `tile.seen(tile.bounds(i, e / 2), i, j, e)` is false, which is evaluated only if tile.masked().
//
// Of element e of fragment (i, j), tile has: key(i, j, e) and query(i, j, e) of the sequence; stats(i, j) of
// the fragment's two queries, and stats_of(e), the index of the element's.
template <bool kFull, bool kKeysFirst, bool kAfterCap, int kM, int kN, typename Tile>
__device__ __forceinline__ void score_gradient(const AttentionParams& p, const GradientRule& rule,
                                               float (&s)[kM][kN][4], float (&ds)[kM][kN][4],
                                               const Tile& tile) {
  const float factor = kFull ? kLog2E : rule.score.scale * kLog2E;
#pragma unroll
  for (int i = 0; i < kM; ++i) {
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      const QueryStats stats = tile.stats(i, j);
      [[maybe_unused]] float slope[4];
      if constexpr (kFull) {
        rule.score.apply(s[i][j], slope, [&](int e) { return tile.key(i, j, e) - tile.query(i, j, e); });
      }
      Kept kept{{true, true, true, true}};
      if (kFull && p.dropout) {
        const int64_t position = tile.query(i, j, 0) + rule.offset;
        kept = kKeysFirst ? kept_queries(rule.dropout, {tile.key(i, j, 0), tile.key(i, j, 2)}, position)
                          : kept_keys(rule.dropout, tile.key(i, j, 0),
                                      {position, tile.query(i, j, 2) + rule.offset});
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float prob = ptx::exp2_approx(fmaf(s[i][j][e], factor, -stats.lse[tile.stats_of(e)]));
        float dprob = ds[i][j][e], dropped = prob;
        if (kFull && p.dropout) {
          const float scale = static_cast<float>(p.keep_scale);
          dropped = kept.at[e] ? prob * scale : 0.0f, dprob = kept.at[e] ? dprob * scale : 0.0f;
        }
        float gradient = prob * (dprob - stats.delta[tile.stats_of(e)]);
        if (kFull && !kAfterCap) gradient *= slope[e];
        s[i][j][e] = dropped, ds[i][j][e] = gradient;
      }
    }
  }
  if (!tile.masked()) return;
#pragma unroll
  for (int i = 0; i < kM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto bounds = tile.bounds(i, half);
#pragma unroll
      for (int j = 0; j < kN; ++j) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          if (!tile.seen(bounds, i, j, e)) s[i][j][e] = ds[i][j][e] = 0;
        }
      }
    }
  }
}

}  // namespace lck
