// CUDA's keywords and built-in variables and functions for kernels that run on the host.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "runtime.h"

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
// One section for all static shared memory, which the runtime fills with NaN before each block.
#define __shared__ static __attribute__((section("simt_shared")))

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

inline void __syncthreads() {
  simt::sync_block();
}
inline void __syncwarp(uint32_t mask = 0xffffffffu) {
  simt::sync_warp(mask);
}
template <typename T>
T __shfl_sync(uint32_t mask, T value, int source) {
  simt::shuffle("shfl", mask, &value, sizeof(value), source & 31);
  return value;
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int flipped) {
  simt::shuffle("shfl.xor", mask, &value, sizeof(value), static_cast<int>(simt::lane()) ^ flipped);
  return value;
}
inline unsigned __ballot_sync(uint32_t mask, int vote) {
  return simt::ballot(mask, vote != 0);
}
inline int __any_sync(uint32_t mask, int vote) {
  return simt::ballot(mask, vote != 0) != 0;
}
inline int min(int a, int b) {
  return a < b ? a : b;
}
inline int max(int a, int b) {
  return a > b ? a : b;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}
