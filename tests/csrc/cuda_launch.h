// Launches of CUDA kernels on the host.
#pragma once

#include "simt/runtime.h"

namespace lck::test {

struct SimtLaunch {
  template <typename... Params, typename... Args>
  void operator()(void (*kernel)(Params...), int64_t blocks, int threads, int64_t smem_bytes,
                  const Args&... args) const {
    if (blocks > 0)
      simt::launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(threads), smem_bytes, args...);
  }
};

}  // namespace lck::test
