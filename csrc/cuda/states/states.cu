#include "cuda/states/launch.h"
#include "cuda/states/run.h"

namespace lck {

void states_forward_cuda(DType dtype, const StatesParams& params, const GpuStates& states,
                         const Launch& launch) {
  with_states_run(dtype, params, states, [&](auto run) { run.forward(params, states, launch); });
}

void states_backward_cuda(DType dtype, const StatesParams& params, const GpuStates& states,
                          const Launch& launch) {
  with_states_run(dtype, params, states, [&](auto run) { run.backward(params, states, launch); });
}

}  // namespace lck
