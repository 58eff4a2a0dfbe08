#include "cuda/attention.h"
#include "cuda/attention_run.h"

namespace lck {

void attention_backward_cuda(DType dtype, const GpuAttentionParams& params, const Launch& launch) {
  with_attention_run(dtype, params, [&](auto run) { run.backward(params, launch); });
}

}  // namespace lck
