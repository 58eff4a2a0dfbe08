// The private torch ops of windowed attention.
#include "binding/attention_args.h"
#include "cpu/attention/run.h"
#include "cpu/common/tensor_args.h"

namespace lck {
namespace {

// The parameters of a call and the tables that they point to.
struct Call {
  AttentionParams params{};
  AttentionTables tables;
  DType dtype;

  Call(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options)
      : dtype(dtype_of(q)) {
    STD_TORCH_CHECK(q.is_cpu(), "lckernels_cpu: all tensors must be on the CPU");
    const AttentionArgs args = attention_args(q, k, v, options);
    params = args.params;
    if (args.seed) params.seed = static_cast<uint64_t>(*args.seed);
    build_tables(args.layout, &tables, &params);
  }
};

void attention_forward_op(Tensor q, Tensor k, Tensor v, LCK_ATTENTION_PARAMETERS Tensor out, Tensor lse) {
  Call call(q, k, v, LCK_ATTENTION_VALUES);
  prepare_output(out);
  set_results(q, out, lse, &call.params);
  run_attention_forward(current_isa(), call.dtype, call.params);
}

void attention_backward_op(Tensor dout, OptionalTensor dlse, Tensor q, Tensor k, Tensor v, Tensor out,
                           Tensor lse, LCK_ATTENTION_PARAMETERS Tensor dq, Tensor dk, Tensor dv, Tensor delta,
                           OptionalTensor dbias, OptionalTensor dsink) {
  Call call(q, k, v, LCK_ATTENTION_VALUES);
  for (const Tensor& grad : {dq, dk, dv}) prepare_output(grad);
  set_gradients(q, {dout, dlse, out, lse, dq, dk, dv, delta}, &call.params);
  run_attention_backward(current_isa(), call.dtype, call.params, dbias ? dbias->mutable_data_ptr() : nullptr,
                         dsink ? dsink->mutable_data_ptr() : nullptr);
}

}  // namespace
}  // namespace lck

STABLE_TORCH_LIBRARY_FRAGMENT(lckernels_cpu, m) {
  m.def("attention_forward(Tensor q, Tensor k, Tensor v, " LCK_ATTENTION_SCHEMA
        "Tensor(a!) out, Tensor(b!) lse) -> ()");
  m.def(
      "attention_backward(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor "
      "lse, " LCK_ATTENTION_SCHEMA
      "Tensor(a!) dq, Tensor(b!) dk, Tensor(c!) dv, Tensor(d!) delta, Tensor(e!)? dbias, "
      "Tensor(f!)? dsink) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(lckernels_cpu, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&lck::attention_forward_op));
  m.impl("attention_backward", TORCH_BOX(&lck::attention_backward_op));
}
