// From products q.k to scores, and which probabilities dropout keeps.
#pragma once

#include "cuda/attention_params.h"
#include "cuda/ptx.cuh"
#include "philox.h"

namespace lck {

inline constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// How a block's head makes scores.
struct ScoreRule {
  float scale, softcap;
  const float* bias;  // (bias_len) of the head, or null
  int64_t bias_len;

  __device__ __forceinline__ static ScoreRule of(const AttentionParams& p, int64_t head) {
    const float* bias = static_cast<const float*>(p.rel_bias);
    return {static_cast<float>(p.softmax_scale), static_cast<float>(p.softcap),
            bias ? bias + head * p.bias_len : nullptr, p.bias_len};
  }

  // A score times log2(e); `column` is where its bias lies if the table reaches so far. *tanh: softcap's.
  __device__ __forceinline__ float apply(float product, int64_t column, float* tanh) const {
    float s = product * scale;
    if (softcap != 0) {
      *tanh = tanhf(s / softcap);
      s = *tanh * softcap;
    }
    if (bias) s += bias[smaller(larger(column, 0), bias_len - 1)];
    return s * kLog2E;
  }
};

// Whether dropout keeps the probability of key j for a query at `position`.
__device__ __forceinline__ bool is_kept(const AttentionParams& p, const Draws& draws, int j) {
  const uint32_t low = j & 2 ? draws.at[2] : draws.at[0], high = j & 2 ? draws.at[3] : draws.at[1];
  return (j & 1 ? high : low) >= p.dropout_threshold;
}

// Two elements of a tile that lie side by side in a fragment.
struct KeptPair {
  bool at[2];
};

// Of one query and the keys j and j + 1, j even.
__device__ __forceinline__ KeptPair kept_keys(const AttentionParams& p, uint64_t seed, int j,
                                              int64_t position, int64_t head, int64_t text) {
  const Draws draws = dropout_draws(j, position, head, text, seed);
  return {{is_kept(p, draws, j), is_kept(p, draws, j + 1)}};
}

// Of key j and the queries at `position` and the next.
__device__ __forceinline__ KeptPair kept_queries(const AttentionParams& p, uint64_t seed, int j,
                                                 int64_t position, int64_t head, int64_t text) {
  return {{is_kept(p, dropout_draws(j, position, head, text, seed), j),
           is_kept(p, dropout_draws(j, position + 1, head, text, seed), j)}};
}

}  // namespace lck
