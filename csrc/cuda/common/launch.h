// Starts kernels asynchronously on a stream of the current device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace lck {

struct Launch {
  cudaStream_t stream;

#if defined(__CUDACC__)
  // A one-dimensional grid; nothing if blocks is 0. Throws std::runtime_error with CUDA's error if the launch
  // fails.
  template <typename... Params, typename... Args>
  void operator()(void (*kernel)(Params...), int64_t blocks, int threads, int64_t smem_bytes,
                  const Args&... args) const {
    if (blocks == 0) return;
    if (blocks > INT32_MAX)
      throw std::runtime_error(std::to_string(blocks) + " blocks are too many for a grid");
    constexpr int64_t kDefaultSmemBytes = 48 * 1024;
    const auto bytes = static_cast<int>(smem_bytes);
    if (smem_bytes > kDefaultSmemBytes) {
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    }
    kernel<<<static_cast<unsigned>(blocks), threads, bytes, stream>>>(args...);
    check(cudaGetLastError());
  }

 private:
  static void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
  }
#endif
};

}  // namespace lck
