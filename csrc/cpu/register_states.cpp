// The private torch ops of merge_attention_states.
#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "cpu/states.h"
#include "cpu/tensor_args.h"

namespace lck {
namespace {

using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;

// x (batch, seqlen, num_heads, head_dim), of any strides but the last.
HeadsTensor heads_tensor(const Tensor& x, const Tensor& like, const char* name) {
  bool fits = x.is_cpu() && x.dim() == 4 && x.scalar_type() == like.scalar_type();
  for (int64_t i = 0; fits && i < 4; ++i) fits = x.size(i) == like.size(i);
  STD_TORCH_CHECK(
      fits && (x.size(3) <= 1 || x.stride(3) == 1), "lckernels_cpu: ", name,
      " must be (batch, seqlen, num_heads, head_dim) on the CPU, alike, with a contiguous last dim");
  return {x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}

// x (batch, num_heads, seqlen) of any strides.
HeadsTensor lse_tensor(const Tensor& x, const Tensor& out, const char* name) {
  STD_TORCH_CHECK(x.is_cpu() && x.dim() == 3 && x.scalar_type() == accumulator_of(out) &&
                      x.size(0) == out.size(0) && x.size(1) == out.size(2) && x.size(2) == out.size(1),
                  "lckernels_cpu: ", name,
                  " must be (batch, num_heads, seqlen) on the CPU, float32 (float64 for float64 outs)");
  return {x.const_data_ptr(), x.stride(0), x.stride(2), x.stride(1)};
}

// The parameters of a call and the arrays that they point to.
struct Call {
  std::vector<HeadsTensor> outs, lses, douts, dlses;
  StatesParams params{};

  Call(const Tensors& states, const Tensors& state_lses, const Tensor& out, const Tensor& lse) {
    STD_TORCH_CHECK(out.dim() == 4 && !states.empty() && states.size() == state_lses.size(),
                    "lckernels_cpu: outs and lses must be as many, at least one, and out have 4 dims");
    for (const Tensor& x : states) outs.push_back(heads_tensor(x, out, "outs"));
    for (const Tensor& x : state_lses) lses.push_back(lse_tensor(x, out, "lses"));
    params.outs = outs.data();
    params.lses = lses.data();
    params.out = heads_tensor(out, out, "out");
    params.lse = lse_tensor(lse, out, "lse");
    params.num_states = static_cast<int64_t>(states.size());
    params.batch = out.size(0);
    params.seqlen = out.size(1);
    params.num_heads = out.size(2);
    params.head_dim = out.size(3);
  }

  // Every row of a written tensor starts where a streamed store may: whole cache lines.
  bool whole_lines(const Tensor& x) const {
    return params.head_dim * static_cast<int64_t>(x.element_size()) % 64 == 0;
  }

  void run(StatesPass pass) const {
    const int64_t tile_elements = kStateTile * params.num_heads * params.num_states * params.head_dim;
    const int64_t grain = std::max<int64_t>(1, kGrainElements / std::max<int64_t>(tile_elements, 1));
    run_ranges(num_state_tiles(params), grain, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<std::byte[]> scratch(new std::byte[states_scratch_bytes(params)]);
      pass(params, begin, end, scratch.get());
    });
  }
};

void merge_states(Tensors outs, Tensors lses, bool fresh, Tensor out, Tensor lse) {
  Call call(outs, lses, out, lse);
  call.params.stream_out = prepare_output(out, fresh) && call.whole_lines(out);
  call.run(states_kernels(current_isa(), dtype_of(out)).forward);
}

void merge_states_backward(Tensor dout, Tensor dlse, Tensors outs, Tensors lses, Tensor out, Tensor lse,
                           bool fresh, Tensors douts, Tensors dlses) {
  Call call(outs, lses, out, lse);
  STD_TORCH_CHECK(douts.size() == outs.size() && dlses.size() == outs.size(),
                  "lckernels_cpu: douts and dlses must be as many as outs");
  call.params.dout = heads_tensor(dout, out, "dout");
  call.params.dlse = lse_tensor(dlse, out, "dlse");
  call.params.stream_out = call.whole_lines(out);
  for (const Tensor& x : douts) {
    call.douts.push_back(heads_tensor(x, out, "douts"));
    call.params.stream_out &= prepare_output(x, fresh);
  }
  for (const Tensor& x : dlses) call.dlses.push_back(lse_tensor(x, out, "dlses"));
  call.params.douts = call.douts.data();
  call.params.dlses = call.dlses.data();
  call.run(states_kernels(current_isa(), dtype_of(out)).backward);
}

}  // namespace
}  // namespace lck

STABLE_TORCH_LIBRARY_FRAGMENT(lckernels_cpu, m) {
  m.def("merge_states(Tensor[] outs, Tensor[] lses, bool fresh, Tensor(a!) out, Tensor(b!) lse) -> ()");
  m.def(
      "merge_states_backward(Tensor dout, Tensor dlse, Tensor[] outs, Tensor[] lses, Tensor out, Tensor lse, "
      "bool fresh, Tensor(a!)[] douts, Tensor(b!)[] dlses) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(lckernels_cpu, CPU, m) {
  m.impl("merge_states", TORCH_BOX(&lck::merge_states));
  m.impl("merge_states_backward", TORCH_BOX(&lck::merge_states_backward));
}
