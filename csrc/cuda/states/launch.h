// Launches of merge_attention_states on a GPU. No torch.
#pragma once

#include "cuda/common/launch.h"
#include "cuda/states/gpu_params.h"

namespace lck {

void states_forward_cuda(DType dtype, const StatesParams& params, const GpuStates& states,
                         const Launch& launch);
void states_backward_cuda(DType dtype, const StatesParams& params, const GpuStates& states,
                          const Launch& launch);

}  // namespace lck
