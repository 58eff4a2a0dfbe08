#include "binding/states_args.h"

namespace lck {

namespace {

HeadsTensor state_tensor(const Tensor& x, const Tensor& out, const char* name) {
  bool alike = x.dim() == 4 && out.dim() == 4;
  for (int64_t i = 0; alike && i < 4; ++i) alike = x.size(i) == out.size(i);
  STD_TORCH_CHECK(alike, "lckernels: ", name, " must have the shape of out");
  return heads_tensor(x, out, name);
}

HeadsTensor lse_tensor(const Tensor& x, const Tensor& out, const char* name) {
  STD_TORCH_CHECK(
      same_device(x, out) && x.dim() == 3 && x.scalar_type() == accumulator_of(out) &&
          x.size(0) == out.size(0) && x.size(1) == out.size(2) && x.size(2) == out.size(1),
      "lckernels: ", name,
      " must be (batch, num_heads, seqlen) on the outs' device, float32 (float64 for float64 outs)");
  return {x.const_data_ptr(), x.stride(0), x.stride(2), x.stride(1)};
}

}  // namespace

StatesParams states_params(const Tensors& outs, const Tensors& lses, const Tensor& out, const Tensor& lse) {
  STD_TORCH_CHECK(out.dim() == 4 && !outs.empty() && outs.size() == lses.size(),
                  "lckernels: outs and lses must be equally many, at least one, and out must have 4 dims");
  StatesParams p{};
  p.out = heads_tensor(out, out, "out"), p.lse = lse_tensor(lse, out, "lse");
  p.num_states = static_cast<int64_t>(outs.size());
  p.batch = out.size(0), p.seqlen = out.size(1), p.num_heads = out.size(2), p.head_dim = out.size(3);
  return p;
}

void set_state_gradients(const OptionalTensor& dout, const OptionalTensor& dlse, const Tensors& douts,
                         const Tensors& dlses, const Tensor& out, StatesParams* params) {
  const auto states = static_cast<size_t>(params->num_states);
  STD_TORCH_CHECK(douts.size() == states && dlses.size() == states,
                  "lckernels: douts and dlses must be as many as outs");
  if (dout) params->dout = state_tensor(*dout, out, "dout");
  if (dlse) params->dlse = lse_tensor(*dlse, out, "dlse");
}

void state_rows(const Tensors& tensors, const Tensor& out, const char* name, HeadsTensor* rows) {
  for (const Tensor& x : tensors) *rows++ = state_tensor(x, out, name);
}

void lse_rows(const Tensors& tensors, const Tensor& out, const char* name, HeadsTensor* rows) {
  for (const Tensor& x : tensors) *rows++ = lse_tensor(x, out, name);
}

}  // namespace lck
