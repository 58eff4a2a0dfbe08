// Prints the launch parameters of each attention kernel: its name in binaries, threads, bytes of shared
// memory. bench/compile/cuda_compile.py reads it.
#include <dlfcn.h>

#include <cstdio>

#include "cuda/attention/run.h"
#include "cuda/chunked/run.h"

namespace {

struct PrintLaunch {
  template <typename... Params, typename... Args>
  void operator()(void (*kernel)(Params...), int64_t, int threads, int64_t smem_bytes, const Args&...) const {
    Dl_info found{};
    if (!dladdr(reinterpret_cast<void*>(kernel), &found) || !found.dli_sname) std::abort();
    std::printf("%s %d %lld\n", found.dli_sname, threads, static_cast<long long>(smem_bytes));
  }
};

}  // namespace

int main() {
  float bias = 0;
  lck::GpuAttentionParams a{};
  a.p.batch = a.p.num_heads = a.p.num_kv_heads = 1;
  a.p.softmax_scale = 1;
  lck::GpuChunkedParams chunked{};
  chunked.c.extra_queries = true, chunked.c.num_extra = 1;
  for (const lck::DType dtype : {lck::DType::kBFloat16, lck::DType::kFloat16}) {
    for (const int64_t dim : {32, 64, 96, 128, 192, 256}) {
      a.p.head_dim = chunked.c.sequence.head_dim = dim;
      for (const bool full : {false, true}) {
        a.p.rel_bias = full ? &bias : nullptr, a.p.dbias = full ? &bias : nullptr;
        lck::with_attention_run(dtype, a, [&](auto run) {
          run.forward(a, PrintLaunch{});
          run.backward(a, PrintLaunch{});
        });
      }
      if (dim > lck::kMaxChunkedHeadDim) continue;
      lck::with_chunked_run(dtype, chunked, [&](auto run) {
        run.forward(chunked, PrintLaunch{});
        run.backward(chunked, PrintLaunch{});
      });
    }
  }
}
