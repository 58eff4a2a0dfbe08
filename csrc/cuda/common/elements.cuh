// Elements of tensors in registers: vectors of one memory access, and accumulator types.
#pragma once

#include "cuda/ptx.cuh"
#include "params.h"

namespace lck {

template <typename T>
struct Accumulator {
  using Type = float;
};
template <>
struct Accumulator<double> {
  using Type = double;
};
template <typename T>
using Acc = typename Accumulator<T>::Type;

__device__ __forceinline__ float to_acc(float x) {
  return x;
}
__device__ __forceinline__ double to_acc(double x) {
  return x;
}
__device__ __forceinline__ float to_acc(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ float to_acc(__half x) {
  return __half2float(x);
}

template <typename T>
__device__ __forceinline__ T from_acc(Acc<T> x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_acc<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ __half from_acc<__half>(float x) {
  return __float2half_rn(x);
}

// run.operator()<T>() with the type of the dtype's elements.
template <typename Run>
void with_elements(DType dtype, const Run& run) {
  switch (dtype) {
    case DType::kFloat64:
      return run.template operator()<double>();
    case DType::kBFloat16:
      return run.template operator()<__nv_bfloat16>();
    case DType::kFloat16:
      return run.template operator()<__half>();
    default:
      return run.template operator()<float>();
  }
}

// A row of one head.
template <typename T>
__device__ __forceinline__ T* row_of(const HeadsTensor& x, int64_t batch, int64_t row, int64_t head) {
  return static_cast<T*>(const_cast<void*>(x.data)) + batch * x.batch_stride + row * x.row_stride +
         head * x.head_stride;
}

// Index of a query and head in lse and delta.
__device__ __forceinline__ int64_t query_place(const AttentionParams& p, int64_t batch, int64_t query,
                                               int64_t head) {
  return (batch * p.num_heads + head) * p.seqlen_q + query;
}

// kBytes of contiguous elements, aligned to kBytes.
template <typename T, int kBytes>
struct alignas(kBytes) Vec {
  static constexpr int kSize = kBytes / sizeof(T);
  T at[kSize];
};

template <typename T, int kBytes>
__device__ __forceinline__ Vec<T, kBytes> load_vec(const T* from) {
  return *reinterpret_cast<const Vec<T, kBytes>*>(from);
}
template <typename T, int kBytes>
__device__ __forceinline__ void store_vec(T* to, const Vec<T, kBytes>& x) {
  *reinterpret_cast<Vec<T, kBytes>*>(to) = x;
}

}  // namespace lck
