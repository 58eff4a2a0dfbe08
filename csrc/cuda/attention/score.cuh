// From products q.k to scores.
#pragma once

#include <cfloat>

#include "cuda/attention/gpu_params.h"
#include "cuda/ptx.cuh"

namespace lck {

inline constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// Accurate to a few roundings of fp32: near 0 the quotient of exponentials would cancel.
__device__ __forceinline__ float tanh_approx(float x) {
  const float e = ptx::exp2_approx(-2 * kLog2E * fabsf(x)), square = x * x;
  const float far = copysignf((1 - e) * ptx::reciprocal_approx(1 + e), x);
  const float near = x + x * square * (-1 / 3.0f + square * (2 / 15.0f - square * (17 / 315.0f)));
  return fabsf(x) < 0.1f ? near : far;
}

// The score of a head's queries and keys in one sequence.
struct ScoreRule {
  float scale, softcap;
  const float* bias;  // (bias_len) of the head, or null
  // The index in the table is the distance, key minus query, clamped to [low, high], plus `shift`.
  int64_t shift;
  int low, high;

  // `offset`: of the queries' positions.
  __device__ __forceinline__ static ScoreRule of(const AttentionParams& p, int64_t head, int64_t offset) {
    ScoreRule rule{static_cast<float>(p.softmax_scale), static_cast<float>(p.softcap), nullptr, 0, 0, 0};
    if (!p.rel_bias) return rule;
    rule.bias = static_cast<const float*>(p.rel_bias) + head * p.bias_len;
    const int64_t shift = p.bias_center - offset, last = p.bias_len - 1;
    if (-shift > INT32_MAX) return rule;  // every distance is before the table
    if (last - shift < INT32_MIN) {       // after it
      rule.bias += last;
      return rule;
    }
    rule.shift = shift;
    rule.low = static_cast<int>(larger(-shift, INT32_MIN));
    rule.high = static_cast<int>(smaller(last - shift, INT32_MAX));
    return rule;
  }

  // Whether scores are products times `scale` > 0.
  __device__ __forceinline__ bool only_scales() const { return softcap == 0 && !bias && scale > 0; }

  // Converts the products of a fragment to scores and sets slope to the softcap's derivative; distance(e): of
  // element e.
  template <typename Distance>
  __device__ __forceinline__ void apply(float (&s)[4], float (&slope)[4], const Distance& distance) const {
#pragma unroll
    for (int e = 0; e < 4; ++e) s[e] *= scale, slope[e] = 1;
    if (softcap != 0) {
      const float inverse = fminf(1 / softcap, FLT_MAX);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float tanh = tanh_approx(s[e] * inverse);
        s[e] = tanh * softcap, slope[e] = 1 - tanh * tanh;
      }
    }
    if (bias) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[e] += bias[min(max(distance(e), low), high) + shift];
    }
  }
};

}  // namespace lck
