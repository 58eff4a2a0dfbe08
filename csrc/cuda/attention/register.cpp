// The private torch ops of windowed attention on a GPU; outputs are allocated by the caller.
#include "binding/attention_args.h"
#include "cuda/attention/launch.h"
#include "cuda/common/rows.h"
#include "cuda/device.h"

namespace lck {
namespace {

GpuAttentionParams gpu_params(const Tensor& q, const Tensor& k, const Tensor& v,
                              const AttentionOptions& options) {
  check_attention_dtype(q);
  STD_TORCH_CHECK(!options.segment_ids, "lckernels_cuda: attention does not support segment_ids");
  const AttentionArgs args = attention_args(q, k, v, options);
  GpuAttentionParams a{args.params, args.layout, args.seed};
  check_rows(q, "q"), check_rows(k, "k"), check_rows(v, "v");
  STD_TORCH_CHECK(larger(a.p.head_dim, a.p.head_dim_v) <= kMaxHeadDim,
                  "lckernels_cuda: attention supports head dims up to ", kMaxHeadDim);
  return a;
}

void attention_forward_op(Tensor q, Tensor k, Tensor v, LCK_ATTENTION_PARAMETERS Tensor out, Tensor lse) {
  GpuAttentionParams a = gpu_params(q, k, v, LCK_ATTENTION_VALUES);
  set_results(q, out, lse, &a.p);
  check_rows(out, "out");
  on_device_of(q, "attention_forward",
               [&](const Launch& launch) { attention_forward_cuda(dtype_of(q), a, launch); });
}

// Number of strips of dbias that attention_backward requires.
int64_t bias_strips_op(Tensor q, OptionalTensor cu_seqlens_q) {
  GpuAttentionParams a{};
  a.p.seqlen_q = q.size(1);
  if (cu_seqlens_q) {
    a.layout.cu_seqlens_q = static_cast<const int64_t*>(cu_seqlens_q->const_data_ptr());
    a.layout.num_sequences = cu_seqlens_q->numel() - 1;
  }
  return bias_strips(a);
}

void attention_backward_op(Tensor dout, OptionalTensor dlse, Tensor q, Tensor k, Tensor v, Tensor out,
                           Tensor lse, LCK_ATTENTION_PARAMETERS Tensor dq, Tensor dk, Tensor dv, Tensor delta,
                           OptionalTensor dbias) {
  GpuAttentionParams a = gpu_params(q, k, v, LCK_ATTENTION_VALUES);
  AttentionParams& p = a.p;
  set_gradients(q, {dout, dlse, out, lse, dq, dk, dv, delta}, &p);
  check_rows(out, "out"), check_rows(dout, "dout");
  check_rows(dq, "dq"), check_rows(dk, "dk"), check_rows(dv, "dv");
  p.dbias = const_cast<void*>(
      table_data(dbias, q, ScalarType::Float, p.batch * p.num_heads * bias_strips(a) * p.bias_len, "dbias"));
  on_device_of(q, "attention_backward",
               [&](const Launch& launch) { attention_backward_cuda(dtype_of(q), a, launch); });
}

}  // namespace
}  // namespace lck

STABLE_TORCH_LIBRARY_FRAGMENT(lckernels_cuda, m) {
  m.def("bias_strips(Tensor q, Tensor? cu_seqlens_q) -> int");
  m.def("attention_forward(Tensor q, Tensor k, Tensor v, " LCK_ATTENTION_SCHEMA
        "Tensor(a!) out, Tensor(b!) lse) -> ()");
  m.def(
      "attention_backward(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor "
      "lse, " LCK_ATTENTION_SCHEMA
      "Tensor(a!) dq, Tensor(b!) dk, Tensor(c!) dv, Tensor(d!) delta, Tensor(e!)? dbias) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(lckernels_cuda, CUDA, m) {
  m.impl("bias_strips", TORCH_BOX(&lck::bias_strips_op));
  m.impl("attention_forward", TORCH_BOX(&lck::attention_forward_op));
  m.impl("attention_backward", TORCH_BOX(&lck::attention_backward_op));
}
