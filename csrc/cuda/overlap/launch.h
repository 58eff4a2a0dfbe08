// Launches of overlap_merge and overlap_split on a GPU; params point to its memory. No torch.
#pragma once

#include "cuda/common/launch.h"
#include "params.h"

namespace lck {

// sequence from chunks: overlap_merge, overlap_split's backward.
void overlap_gather_cuda(DType dtype, const OverlapParams& params, const Launch& launch);
// Whole rows of chunks from sequence: overlap_split, overlap_merge's backward.
void overlap_scatter_cuda(DType dtype, const OverlapParams& params, const Launch& launch);
// dweights, which must be zero before, from sequence (dout) and chunks.
void overlap_weight_grad_cuda(DType dtype, const OverlapParams& params, const Launch& launch);

}  // namespace lck
