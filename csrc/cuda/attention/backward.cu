#include "cuda/attention/launch.h"
#include "cuda/attention/run.h"

namespace lck {

void attention_backward_cuda(DType dtype, const GpuAttentionParams& params, const Launch& launch) {
  with_attention_run(dtype, params, [&](auto run) { run.backward(params, launch); });
}

}  // namespace lck
