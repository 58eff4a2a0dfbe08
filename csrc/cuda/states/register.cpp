// The private torch ops of merge_attention_states on a GPU; outputs are allocated by the caller.
#include <vector>

#include "cuda/device.h"
#include "cuda/states/launch.h"

namespace lck {
namespace {

using Tensors = std::vector<Tensor>;

struct Call {
  StatesParams params{};
  GpuStates states{};

  Call(const Tensors& outs, const Tensors& lses, const Tensor& out, const Tensor& lse) {
    STD_TORCH_CHECK(
        out.dim() == 4 && !outs.empty() && outs.size() == lses.size() && outs.size() <= kMaxStates,
        "lckernels_cuda: outs and lses must be as many, 1 to ", kMaxStates, ", and out have 4 dims");
    for (size_t n = 0; n < outs.size(); ++n) {
      states.outs[n] = state_tensor(outs[n], out, "outs"), states.lses[n] = lse_tensor(lses[n], out, "lses");
    }
    params = states_params(outs.size(), out, lse);
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
  STD_TORCH_CHECK(douts.size() == outs.size() && dlses.size() == outs.size(),
                  "lckernels_cuda: douts and dlses must be as many as outs");
  if (dout) call.params.dout = state_tensor(*dout, out, "dout");
  if (dlse) call.params.dlse = lse_tensor(*dlse, out, "dlse");
  for (size_t n = 0; n < outs.size(); ++n) {
    call.states.douts[n] = state_tensor(douts[n], out, "douts");
    call.states.dlses[n] = lse_tensor(dlses[n], out, "dlses");
  }
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
