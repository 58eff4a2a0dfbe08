// The private torch ops of merge_attention_states on a GPU; outputs are allocated by the caller.
#include "binding/states_args.h"
#include "cuda/device.h"
#include "cuda/states/launch.h"

namespace lck {
namespace {

struct Call {
  StatesParams params;
  GpuStates states{};

  Call(const Tensors& outs, const Tensors& lses, const Tensor& out, const Tensor& lse)
      : params(states_params(outs, lses, out, lse)) {
    STD_TORCH_CHECK(outs.size() <= kMaxStates, "lckernels_cuda: outs and lses must be at most ", kMaxStates);
    state_rows(outs, out, "outs", states.outs);
    lse_rows(lses, out, "lses", states.lses);
  }
};

void merge_states(Tensors outs, Tensors lses, Tensor out, Tensor lse) {
  const Call call(outs, lses, out, lse);
  on_device_of(out, "merge_states", [&](const Launch& launch) {
    states_forward_cuda(dtype_of(out), call.params, call.states, launch);
  });
}

void merge_states_backward(OptionalTensor dout, OptionalTensor dlse, Tensors outs, Tensors lses, Tensor out,
                           Tensor lse, Tensors douts, Tensors dlses) {
  Call call(outs, lses, out, lse);
  set_state_gradients(dout, dlse, douts, dlses, out, &call.params);
  state_rows(douts, out, "douts", call.states.douts);
  lse_rows(dlses, out, "dlses", call.states.dlses);
  on_device_of(out, "merge_states_backward", [&](const Launch& launch) {
    states_backward_cuda(dtype_of(out), call.params, call.states, launch);
  });
}

}  // namespace
}  // namespace lck

STABLE_TORCH_LIBRARY_FRAGMENT(lckernels_cuda, m) {
  m.def("merge_states(Tensor[] outs, Tensor[] lses, Tensor(a!) out, Tensor(b!) lse) -> ()");
  m.def(
      "merge_states_backward(Tensor? dout, Tensor? dlse, Tensor[] outs, Tensor[] lses, Tensor out, Tensor "
      "lse, "
      "Tensor(a!)[] douts, Tensor(b!)[] dlses) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(lckernels_cuda, CUDA, m) {
  m.impl("merge_states", TORCH_BOX(&lck::merge_states));
  m.impl("merge_states_backward", TORCH_BOX(&lck::merge_states_backward));
}
