// The private torch ops of windowed attention.
#include <optional>
#include <tuple>

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

  Call(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options,
       bool heads_first = false)
      : dtype(dtype_of(q)) {
    STD_TORCH_CHECK(q.is_cpu(), "lckernels_cpu: all tensors must be on the CPU");
    const AttentionArgs args = attention_args(q, k, v, options, heads_first);
    params = args.params;
    if (args.seed) params.seed = static_cast<uint64_t>(*args.seed);
    build_tables(args.layout, &tables, &params);
  }
};

std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const AttentionOptions& options, bool heads_first = false) {
  Call call(q, k, v, options, heads_first);
  const AttentionParams& p = call.params;
  Tensor out = new_tensor(q, {p.batch, p.seqlen_q, p.num_heads, p.head_dim_v});
  Tensor lse = new_tensor(q, {p.batch, p.num_heads, p.seqlen_q}, accumulator_of(q));
  prepare_output(out);
  set_results(q, out, lse, &call.params);
  run_attention_forward(current_isa(), call.dtype, call.params);
  return {out, lse};
}

std::tuple<Tensor, Tensor> attention_forward_op(LCK_ATTENTION_PARAMETERS Tensor q, Tensor k, Tensor v) {
  return forward(contiguous_rows(q), contiguous_rows(k), contiguous_rows(v), LCK_ATTENTION_VALUES);
}

// The same without other options: fewer arguments take less time to convert. The results are as in the other
// op, whatever the order of q, k and v.
std::tuple<Tensor, Tensor> window_forward_op(Tensor q, Tensor k, Tensor v, int64_t left, int64_t right,
                                             double softmax_scale, std::optional<int64_t> offset,
                                             bool heads_first) {
  AttentionOptions options{};
  options.left = left, options.right = right, options.softmax_scale = softmax_scale, options.offset = offset;
  return forward(contiguous_rows(q), contiguous_rows(k), contiguous_rows(v), options, heads_first);
}

std::tuple<Tensor, Tensor, Tensor> attention_backward_op(LCK_ATTENTION_PARAMETERS Tensor dout,
                                                         OptionalTensor dlse, Tensor q, Tensor k, Tensor v,
                                                         Tensor out, Tensor lse, OptionalTensor dbias,
                                                         OptionalTensor dsink) {
  q = contiguous_rows(q), k = contiguous_rows(k), v = contiguous_rows(v);
  out = contiguous_rows(out), dout = contiguous_rows(dout);
  Call call(q, k, v, LCK_ATTENTION_VALUES);
  const AttentionParams& p = call.params;
  Tensor dq = new_tensor(q, {p.batch, p.seqlen_q, p.num_heads, p.head_dim});
  Tensor dk = new_tensor(q, {p.batch, p.seqlen_k, p.num_kv_heads, p.head_dim});
  Tensor dv = new_tensor(q, {p.batch, p.seqlen_k, p.num_kv_heads, p.head_dim_v});
  for (const Tensor& grad : {dq, dk, dv}) prepare_output(grad);
  const Tensor delta = new_tensor(q, {p.batch, p.num_heads, p.seqlen_q}, accumulator_of(q));
  set_gradients(q, {dout, dlse, out, lse, dq, dk, dv, delta}, &call.params);
  const auto written = [&](const OptionalTensor& x, int64_t numel, const char* name) {
    return const_cast<void*>(table_data(x, q, accumulator_of(q), numel, name));
  };
  run_attention_backward(current_isa(), call.dtype, call.params,
                         written(dbias, p.num_heads * p.bias_len, "dbias"),
                         written(dsink, p.num_heads, "dsink"));
  return {dq, dk, dv};
}

}  // namespace
}  // namespace lck

STABLE_TORCH_LIBRARY_FRAGMENT(lckernels_cpu, m) {
  m.def("attention_forward(" LCK_ATTENTION_SCHEMA "Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)");
  m.def(
      "window_forward(Tensor q, Tensor k, Tensor v, int left, int right, float softmax_scale, int? offset, "
      "bool heads_first=False) -> (Tensor, Tensor)");
  m.def("attention_backward(" LCK_ATTENTION_SCHEMA
        "Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
        "Tensor(a!)? dbias, Tensor(b!)? dsink) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(lckernels_cpu, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&lck::attention_forward_op));
  m.impl("window_forward", TORCH_BOX(&lck::window_forward_op));
  m.impl("attention_backward", TORCH_BOX(&lck::attention_backward_op));
}
