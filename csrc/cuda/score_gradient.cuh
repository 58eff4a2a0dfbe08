// From two products of a tile, q.k and dout.v, to probabilities and the gradient of the scores. Rows of the
// tile may be queries or keys.
#pragma once

#include "cuda/score.cuh"
#include "cuda/tile.cuh"

namespace lck {

// The lse times log2(e); inf for a query that sees nothing, so that its probabilities are 0.
__device__ __forceinline__ float lse_log2(float lse) {
  return lse == -INFINITY ? INFINITY : lse * kLog2E;
}

// Whether a query has probabilities: it sees a key, and in a chunked attention its share is not 0.
__device__ __forceinline__ bool is_finite_lse(float lse) {
  return lse - lse == 0;
}

// What one head of a text's queries brings to its gradients.
struct GradientRule {
  ScoreRule score;
  int64_t head, text, offset;
  uint64_t seed;

  __device__ __forceinline__ static GradientRule of(const GpuAttentionParams& a, const Text& text,
                                                    int64_t head) {
    const uint64_t seed = a.seed ? static_cast<uint64_t>(*a.seed) : 0;
    return {ScoreRule::of(a.p, head), head, text.index, text.offset, seed};
  }
};

// s: products q.k in, probabilities out, of those that dropout keeps, times its scale. ds: products dout.v
// in, the gradient of the scores out: behind the softcap with kBehindCap, else before it. Both are 0 where
// `tile.seen(i, j, e)` is false, which is asked only if tile.masked().
//
// Of element e of fragment (i, j), tile has: key(i, j, e) and query(i, j, e) of the text, lse(i, j, e) times
// log2(e) and delta(i, j, e) of its query.
template <bool kFull, bool kKeysFirst, bool kBehindCap, int kM, int kN, typename Tile>
__device__ __forceinline__ void score_gradient(const AttentionParams& p, const GradientRule& rule,
                                               float (&s)[kM][kN][4], float (&ds)[kM][kN][4],
                                               const Tile& tile) {
#pragma unroll
  for (int i = 0; i < kM; ++i) {
#pragma unroll
    for (int j = 0; j < kN; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        KeptPair kept{{true, true}};
        if (kFull && p.dropout) {
          const int key = tile.key(i, j, 2 * half);
          const int64_t position = tile.query(i, j, 2 * half) + rule.offset;
          kept = kKeysFirst ? kept_queries(p, rule.seed, key, position, rule.head, rule.text)
                            : kept_keys(p, rule.seed, key, position, rule.head, rule.text);
        }
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          const int e = 2 * half + side;
          float tanh = 0, score = s[i][j][e] * (rule.score.scale * kLog2E);
          if (kFull) {
            const int64_t distance = tile.key(i, j, e) - (tile.query(i, j, e) + rule.offset);
            score = rule.score.apply(s[i][j][e], distance + p.bias_center, &tanh);
          }
          float prob = ptx::exp2_approx(score - tile.lse(i, j, e)), dprob = ds[i][j][e], dropped = prob;
          if (kFull && p.dropout) {
            const float scale = static_cast<float>(p.keep_scale);
            dropped = kept.at[side] ? prob * scale : 0.0f, dprob = kept.at[side] ? dprob * scale : 0.0f;
          }
          float gradient = prob * (dprob - tile.delta(i, j, e));
          if (kFull && !kBehindCap) gradient *= 1 - tanh * tanh;
          if (tile.masked() && !tile.seen(i, j, e)) dropped = gradient = 0;
          s[i][j][e] = dropped, ds[i][j][e] = gradient;
        }
      }
    }
  }
}

}  // namespace lck
