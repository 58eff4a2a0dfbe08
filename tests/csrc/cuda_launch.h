// Launches of CUDA kernels on the host.
#pragma once

#include "simt/runtime.h"

namespace lck::test {

// Under ThreadSanitizer a block is a hundred times slower: tests run a part of their cases.
#if !defined(__has_feature)
  #define __has_feature(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
inline constexpr bool kFewCases = true;
#else
inline constexpr bool kFewCases = false;
#endif

struct SimtLaunch {
  template <typename... Params, typename... Args>
  void operator()(void (*kernel)(Params...), int64_t blocks, int threads, int64_t smem_bytes,
                  const Args&... args) const {
    if (blocks > 0)
      simt::launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(threads), smem_bytes, args...);
  }
};

}  // namespace lck::test
