// Launches of windowed attention on a GPU; params point to its memory. No torch.
#pragma once

#include "cuda/attention/gpu_params.h"
#include "cuda/common/launch.h"

namespace lck {

// Computes out and lse.
void attention_forward_cuda(DType dtype, const GpuAttentionParams& params, const Launch& launch);

// Computes delta, dq, dk, dv, and if params.p.dbias is not null bias_strips() strips of the bias' gradient,
// which must be zero before.
void attention_backward_cuda(DType dtype, const GpuAttentionParams& params, const Launch& launch);

}  // namespace lck
