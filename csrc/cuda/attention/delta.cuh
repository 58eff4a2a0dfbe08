// delta = <dout, out> - dlse of each query and head.
#pragma once

#include "cuda/common/elements.cuh"

namespace lck {

inline constexpr int kDeltaThreads = 256, kDeltaLanes = 8;

// Grid: ceil(rows / rows of a block), rows (batch, query, head) with the head fastest; kDeltaLanes threads
// per row.
template <typename T>
__global__ void __launch_bounds__(kDeltaThreads) attention_delta(const AttentionParams p) {
  const int64_t row = int64_t{blockIdx.x} * (kDeltaThreads / kDeltaLanes) + threadIdx.x / kDeltaLanes;
  const int64_t head = row % p.num_heads, query = row / p.num_heads % p.seqlen_q;
  const int64_t batch = row / p.num_heads / p.seqlen_q;
  const bool there = batch < p.batch;
  using V = Vec<T, 16>;
  float sum = 0;
  if (there) {
    const T *out = row_of<T>(p.out, batch, query, head), *dout = row_of<T>(p.dout, batch, query, head);
    for (int64_t d = threadIdx.x % kDeltaLanes * V::kSize; d < p.head_dim_v; d += kDeltaLanes * V::kSize) {
      const V x = load_vec<T, 16>(out + d), y = load_vec<T, 16>(dout + d);
#pragma unroll
      for (int e = 0; e < V::kSize; ++e) sum += to_acc(x.at[e]) * to_acc(y.at[e]);
    }
  }
#pragma unroll
  for (int d = kDeltaLanes / 2; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
  if (!there || threadIdx.x % kDeltaLanes) return;
  const int64_t at = query_place(p, batch, query, head);
  const float dlse = p.dlse ? static_cast<const float*>(p.dlse)[at] : 0.0f;
  static_cast<float*>(p.delta)[at] = sum - dlse;
}

}  // namespace lck
