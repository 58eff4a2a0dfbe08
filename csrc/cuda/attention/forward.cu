#include "cuda/attention/launch.h"
#include "cuda/attention/run.h"

namespace lck {

void attention_forward_cuda(DType dtype, const GpuAttentionParams& params, const Launch& launch) {
  with_attention_run(dtype, params, [&](auto run) { run.forward(params, launch); });
}

}  // namespace lck
