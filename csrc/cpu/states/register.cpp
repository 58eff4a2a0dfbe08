// The private torch ops of merge_attention_states.
#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "binding/states_args.h"
#include "cpu/common/tensor_args.h"
#include "cpu/states/kernels.h"

namespace lck {
namespace {

// The parameters of a call and the arrays that they point to.
struct Call {
  std::vector<HeadsTensor> outs, lses, douts, dlses;
  StatesParams params;

  Call(const Tensors& states, const Tensors& state_lses, const Tensor& out, const Tensor& lse)
      : outs(states.size()),
        lses(states.size()),
        douts(states.size()),
        dlses(states.size()),
        params(states_params(states, state_lses, out, lse)) {
    STD_TORCH_CHECK(out.is_cpu(), "lckernels_cpu: all tensors must be on the CPU");
    state_rows(states, out, "outs", outs.data());
    lse_rows(state_lses, out, "lses", lses.data());
    params.outs = outs.data(), params.lses = lses.data();
  }

  // Whether every row of a written tensor is whole cache lines, as streaming stores require.
  bool whole_lines(const Tensor& x) const {
    return params.head_dim * static_cast<int64_t>(x.element_size()) % 64 == 0;
  }

  void run(StatesKernel kernel) const {
    const int64_t tile_elements = kStateTile * params.num_heads * params.num_states * params.head_dim;
    const int64_t grain = std::max<int64_t>(1, kGrainElements / std::max<int64_t>(tile_elements, 1));
    run_ranges(num_state_tiles(params), grain, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<std::byte[]> scratch(new std::byte[states_scratch_bytes(params)]);
      kernel(params, begin, end, scratch.get());
    });
  }
};

void merge_states(Tensors outs, Tensors lses, Tensor out, Tensor lse) {
  Call call(outs, lses, out, lse);
  call.params.stream_out = prepare_output(out) && call.whole_lines(out);
  call.run(states_kernels(current_isa(), dtype_of(out)).forward);
}

void merge_states_backward(Tensor dout, Tensor dlse, Tensors outs, Tensors lses, Tensor out, Tensor lse,
                           Tensors douts, Tensors dlses) {
  Call call(outs, lses, out, lse);
  set_state_gradients(dout, dlse, douts, dlses, out, &call.params);
  state_rows(douts, out, "douts", call.douts.data());
  lse_rows(dlses, out, "dlses", call.dlses.data());
  call.params.stream_out = call.whole_lines(out);
  for (const Tensor& x : douts) call.params.stream_out &= prepare_output(x);
  call.params.douts = call.douts.data(), call.params.dlses = call.dlses.data();
  call.run(states_kernels(current_isa(), dtype_of(out)).backward);
}

}  // namespace
}  // namespace lck

STABLE_TORCH_LIBRARY_FRAGMENT(lckernels_cpu, m) {
  m.def("merge_states(Tensor[] outs, Tensor[] lses, Tensor(a!) out, Tensor(b!) lse) -> ()");
  m.def(
      "merge_states_backward(Tensor dout, Tensor dlse, Tensor[] outs, Tensor[] lses, Tensor out, Tensor lse, "
      "Tensor(a!)[] douts, Tensor(b!)[] dlses) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(lckernels_cpu, CPU, m) {
  m.impl("merge_states", TORCH_BOX(&lck::merge_states));
  m.impl("merge_states_backward", TORCH_BOX(&lck::merge_states_backward));
}
