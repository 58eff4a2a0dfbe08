// Starts kernels on a stream of the current device; nothing waits for them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace lck {

struct Launch {
  cudaStream_t stream;

#if defined(__CUDACC__)
  // `blocks` blocks in a row, none if 0. Throws std::runtime_error with CUDA's reason if it does not start.
  template <typename... Params, typename... Args>
  void operator()(void (*kernel)(Params...), int64_t blocks, int threads, int64_t smem_bytes,
                  const Args&... args) const {
    if (blocks == 0) return;
    if (blocks > INT32_MAX)
      throw std::runtime_error(std::to_string(blocks) + " blocks are too many for a grid");
    constexpr int64_t kSmemUnasked = 48 * 1024;
    const auto bytes = static_cast<int>(smem_bytes);
    if (smem_bytes > kSmemUnasked) {
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
