// The passes of merge_attention_states on a GPU. No torch.
#pragma once

#include "cuda/gpu_states.h"
#include "cuda/launch.h"

namespace lck {

void states_forward_cuda(DType dtype, const StatesParams& params, const GpuStates& states,
                         const Launch& launch);
void states_backward_cuda(DType dtype, const StatesParams& params, const GpuStates& states,
                          const Launch& launch);

}  // namespace lck
