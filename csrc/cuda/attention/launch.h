// The passes of windowed attention on a GPU; params point to its memory. No torch.
#pragma once

#include "cuda/attention/params.h"
#include "cuda/common/launch.h"

namespace lck {

// out and lse.
void attention_forward_cuda(DType dtype, const GpuAttentionParams& params, const Launch& launch);

// delta, dq, dk, dv, and the strips of the bias' gradient where params.p.dbias is not null: bias_strips() of
// them, zero before.
void attention_backward_cuda(DType dtype, const GpuAttentionParams& params, const Launch& launch);

}  // namespace lck
