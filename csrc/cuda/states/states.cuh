// merge_attention_states in CUDA: one pass, each row of out and of the gradients by kStateLanes threads. A
// state whose weight is 0 at a row is not read there.
#pragma once

#include "cuda/common/elements.cuh"
#include "cuda/states/gpu_params.h"

namespace lck {

inline constexpr int kStateThreads = 256, kStateLanes = 8;
inline constexpr int kStateBlocks = 4;  // per multiprocessor: with more, registers would spill

// A thread's row, (batch, query, head) with the head fastest, and its first element in it.
template <typename V>
struct StateRow {
  int64_t batch, query, head, first;
  bool there;

  __device__ __forceinline__ static StateRow of(const StatesParams& p) {
    const int64_t row = int64_t{blockIdx.x} * (kStateThreads / kStateLanes) + threadIdx.x / kStateLanes;
    const int64_t query = row / p.num_heads, batch = query / p.seqlen;
    return {batch, query % p.seqlen, row % p.num_heads, int64_t{threadIdx.x % kStateLanes} * V::kSize,
            batch < p.batch};
  }
  template <typename T>
  __device__ __forceinline__ T* in(const HeadsTensor& x) const {
    return row_of<T>(x, batch, query, head);
  }
};

// Grid: ceil(rows / rows of a block).
template <typename T, int kBytes>
__global__ void __launch_bounds__(kStateThreads, kStateBlocks)
    states_forward(const __grid_constant__ StatesParams p, const __grid_constant__ GpuStates states) {
  using V = Vec<T, kBytes>;
  using A = Acc<T>;
  const auto row = StateRow<V>::of(p);
  if (!row.there) return;
  A most = -INFINITY;
  for (int64_t n = 0; n < p.num_states; ++n) {
    const A x = *row.template in<A>(states.lses[n]);
    most = x > most || x != x ? x : most;
  }
  const A base = most == -INFINITY ? A(0) : most;
  A sum = 0;
  for (int64_t n = 0; n < p.num_states; ++n) sum += exp(*row.template in<A>(states.lses[n]) - base);
  if (row.first == 0) *row.template in<A>(p.lse) = sum == 0 ? -INFINITY : base + log(sum);
  T* out = row.template in<T>(p.out);
  for (int64_t d = row.first; d < p.head_dim; d += kStateLanes * V::kSize) {
    A total[V::kSize] = {};
    for (int64_t n = 0; n < p.num_states; ++n) {
      const A weight = sum == 0 ? A(0) : exp(*row.template in<A>(states.lses[n]) - base) / sum;
      if (weight == 0) continue;
      const V x = load_vec<T, kBytes>(row.template in<T>(states.outs[n]) + d);
#pragma unroll
      for (int e = 0; e < V::kSize; ++e) total[e] += weight * to_acc(x.at[e]);
    }
    V x;
#pragma unroll
    for (int e = 0; e < V::kSize; ++e) x.at[e] = from_acc<T>(total[e]);
    store_vec(out + d, x);
  }
}

// dout_i = w_i dout and dlse_i = w_i (<dout, out_i - out> + dlse), w_i = exp(lse_i - lse); an absent gradient
// has null data. Grid: as in the forward.
template <typename T, int kBytes>
__global__ void __launch_bounds__(kStateThreads, kStateBlocks)
    states_backward(const __grid_constant__ StatesParams p, const __grid_constant__ GpuStates states) {
  using V = Vec<T, kBytes>;
  using A = Acc<T>;
  constexpr int kStep = kStateLanes * V::kSize;
  const auto row = StateRow<V>::of(p);
  const A lse = row.there ? *row.template in<A>(p.lse) : -INFINITY;
  const A dlse = row.there && p.dlse.data ? *row.template in<A>(p.dlse) : A(0);
  for (int64_t n = 0; n < p.num_states; ++n) {
    const A weight = lse == -INFINITY ? A(0) : exp(*row.template in<A>(states.lses[n]) - lse);
    A dot = 0;
    for (int64_t d = row.first; row.there && d < p.head_dim; d += kStep) {
      V gradient{};
      if (weight != 0 && p.dout.data) {
        const V dout = load_vec<T, kBytes>(row.template in<T>(p.dout) + d);
        const V x = load_vec<T, kBytes>(row.template in<T>(states.outs[n]) + d);
        const V out = load_vec<T, kBytes>(row.template in<T>(p.out) + d);
#pragma unroll
        for (int e = 0; e < V::kSize; ++e) {
          dot += to_acc(dout.at[e]) * (to_acc(x.at[e]) - to_acc(out.at[e]));
          gradient.at[e] = from_acc<T>(weight * to_acc(dout.at[e]));
        }
      }
      store_vec(row.template in<T>(states.douts[n]) + d, gradient);
    }
#pragma unroll
    for (int lanes = kStateLanes / 2; lanes; lanes /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, lanes);
    if (row.there && row.first == 0) {
      *row.template in<A>(states.dlses[n]) = weight == 0 ? A(0) : weight * (dot + dlse);
    }
  }
}

}  // namespace lck
