// Launches of chunked attention on a GPU; params point to its memory. No torch.
#pragma once

#include "cuda/chunked/gpu_params.h"
#include "cuda/common/launch.h"

namespace lck {

// Computes sequence.out, and extra.out if there are extra tokens.
void chunked_forward_cuda(DType dtype, const GpuChunkedParams& params, const Launch& launch);

// Computes the tables, dq, dk and dv of the sequence and of the extra tokens.
void chunked_backward_cuda(DType dtype, const GpuChunkedParams& params, const Launch& launch);

}  // namespace lck
