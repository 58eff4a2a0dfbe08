// The private torch ops of windowed attention. All tensors are on the CPU; tables of the layout are int64 and
// contiguous, kv_mask is bool, rel_bias and sink_logits have the accumulator's dtype.
#include <algorithm>
#include <optional>

#include "cpu/attention_run.h"
#include "cpu/tensor_args.h"

namespace lck {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

HeadsTensor heads_tensor(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.is_cpu() && x.dim() == 4 && (x.size(3) <= 1 || x.numel() == 0 || x.stride(3) == 1),
                  "lckernels_cpu: ", name,
                  " must be (batch, seqlen, heads, dim) on the CPU with a contiguous last dim");
  return {x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}

// The data of an optional table with so many entries.
template <typename E>
const E* table(const OptionalTensor& x, ScalarType type, int64_t numel, const char* name) {
  if (!x) return nullptr;
  STD_TORCH_CHECK(x->is_cpu() && x->scalar_type() == type && x->is_contiguous() && x->numel() == numel,
                  "lckernels_cpu: ", name, " must be a contiguous table of ", numel, " entries on the CPU");
  return static_cast<const E*>(x->const_data_ptr());
}

// Everything but q, k, v and results, as the ops take it.
struct Options {
  int64_t left, right;
  double softmax_scale;
  std::optional<int64_t> offset;
  OptionalTensor offsets, kv_start, kv_end, kv_mask, cu_seqlens_q, cu_seqlens_k, segment_ids;
  int64_t sink_tokens, chunk, chunk_origin;
  OptionalTensor chunk_origins;
  double softcap;
  OptionalTensor rel_bias;
  int64_t bias_center;
  OptionalTensor sink_logits;
  double dropout_p;
  OptionalTensor seed;
};

// One call: its parameters, and the tables that they point to.
struct Call {
  AttentionParams params{};
  AttentionTables tables;
  DType dtype;

  Call(const Tensor& q, const Tensor& k, const Tensor& v, const Options& o) : dtype(dtype_of(q)) {
    AttentionParams& p = params;
    p.q = heads_tensor(q, "q"), p.k = heads_tensor(k, "k"), p.v = heads_tensor(v, "v");
    p.batch = q.size(0), p.seqlen_q = q.size(1), p.seqlen_k = k.size(1);
    p.num_heads = q.size(2), p.num_kv_heads = k.size(2);
    p.head_dim = q.size(3), p.head_dim_v = v.size(3);
    p.window = {o.left, o.right, o.sink_tokens, o.chunk};
    p.softmax_scale = o.softmax_scale, p.softcap = o.softcap;
    const ScalarType acc = dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
    LayoutTables layout{};
    layout.batch = p.batch;
    layout.num_texts = o.cu_seqlens_q ? o.cu_seqlens_q->numel() - 1 : p.batch;
    const int64_t texts = layout.num_texts;
    layout.cu_seqlens_q = table<int64_t>(o.cu_seqlens_q, ScalarType::Long, texts + 1, "cu_seqlens_q");
    layout.cu_seqlens_k = table<int64_t>(o.cu_seqlens_k, ScalarType::Long, texts + 1, "cu_seqlens_k");
    layout.has_offset = o.offset.has_value(), layout.offset = o.offset.value_or(0);
    layout.offset_step = o.offsets && o.offsets->dim() ? 1 : 0;
    layout.offsets = table<int64_t>(o.offsets, ScalarType::Long, layout.offset_step ? texts : 1, "offset");
    layout.kv_start = table<int64_t>(o.kv_start, ScalarType::Long, texts, "kv_start");
    layout.kv_end = table<int64_t>(o.kv_end, ScalarType::Long, texts, "kv_end");
    layout.chunk_origin = o.chunk_origin;
    layout.chunk_origin_step = o.chunk_origins && o.chunk_origins->dim() ? 1 : 0;
    layout.chunk_origins = table<int64_t>(o.chunk_origins, ScalarType::Long,
                                          layout.chunk_origin_step ? texts : 1, "chunk_origin");
    layout.segment_ids = table<int64_t>(o.segment_ids, ScalarType::Long, p.batch * p.seqlen_k, "segment_ids");
    build_tables(layout, &tables, &p);
    p.kv_mask = table<uint8_t>(o.kv_mask, ScalarType::Bool, p.batch * p.seqlen_k, "kv_mask");
    p.sink_logits = table<char>(o.sink_logits, acc, p.num_heads, "sink_logits");
    if (o.rel_bias) {
      p.bias_len = o.rel_bias->size(1), p.bias_center = o.bias_center;
      p.rel_bias = table<char>(o.rel_bias, acc, p.num_heads * p.bias_len, "rel_bias");
    }
    if (o.seed) {
      p.dropout = true;
      p.dropout_threshold = static_cast<uint32_t>(o.dropout_p * 4294967296.0);
      p.keep_scale = 1 / (1 - o.dropout_p);
      p.seed = static_cast<uint64_t>(*table<int64_t>(o.seed, ScalarType::Long, 1, "seed"));
    }
  }
};

void attention_forward_op(Tensor q, Tensor k, Tensor v, int64_t left, int64_t right, double softmax_scale,
                          std::optional<int64_t> offset, OptionalTensor offsets, OptionalTensor kv_start,
                          OptionalTensor kv_end, OptionalTensor kv_mask, OptionalTensor cu_seqlens_q,
                          OptionalTensor cu_seqlens_k, OptionalTensor segment_ids, int64_t sink_tokens,
                          int64_t chunk, int64_t chunk_origin, OptionalTensor chunk_origins, double softcap,
                          OptionalTensor rel_bias, int64_t bias_center, OptionalTensor sink_logits,
                          double dropout_p, OptionalTensor seed, Tensor out, Tensor lse) {
  Call call(q, k, v,
            {left,          right,        softmax_scale, offset,      offsets,     kv_start,  kv_end,
             kv_mask,       cu_seqlens_q, cu_seqlens_k,  segment_ids, sink_tokens, chunk,     chunk_origin,
             chunk_origins, softcap,      rel_bias,      bias_center, sink_logits, dropout_p, seed});
  prepare_output(out, true);
  call.params.out = heads_tensor(out, "out");
  call.params.lse = lse.mutable_data_ptr();
  run_attention_forward(current_isa(), call.dtype, call.params);
}

void attention_backward_op(Tensor dout, OptionalTensor dlse, Tensor q, Tensor k, Tensor v, Tensor out,
                           Tensor lse, int64_t left, int64_t right, double softmax_scale,
                           std::optional<int64_t> offset, OptionalTensor offsets, OptionalTensor kv_start,
                           OptionalTensor kv_end, OptionalTensor kv_mask, OptionalTensor cu_seqlens_q,
                           OptionalTensor cu_seqlens_k, OptionalTensor segment_ids, int64_t sink_tokens,
                           int64_t chunk, int64_t chunk_origin, OptionalTensor chunk_origins, double softcap,
                           OptionalTensor rel_bias, int64_t bias_center, OptionalTensor sink_logits,
                           double dropout_p, OptionalTensor seed, Tensor dq, Tensor dk, Tensor dv,
                           Tensor delta, OptionalTensor dbias, OptionalTensor dsink) {
  Call call(q, k, v,
            {left,          right,        softmax_scale, offset,      offsets,     kv_start,  kv_end,
             kv_mask,       cu_seqlens_q, cu_seqlens_k,  segment_ids, sink_tokens, chunk,     chunk_origin,
             chunk_origins, softcap,      rel_bias,      bias_center, sink_logits, dropout_p, seed});
  AttentionParams& p = call.params;
  for (const Tensor& grad : {dq, dk, dv}) prepare_output(grad, true);
  p.out = heads_tensor(out, "out"), p.dout = heads_tensor(dout, "dout");
  p.dq = heads_tensor(dq, "dq"), p.dk = heads_tensor(dk, "dk"), p.dv = heads_tensor(dv, "dv");
  p.lse = const_cast<void*>(lse.const_data_ptr());
  const int64_t rows = p.batch * p.num_heads * p.seqlen_q;
  p.dlse = table<char>(dlse, lse.scalar_type(), rows, "dlse");
  STD_TORCH_CHECK(lse.is_contiguous() && lse.numel() == rows && delta.numel() == rows,
                  "lckernels_cpu: lse and delta must be contiguous (batch, num_heads, seqlen_q) tensors");
  p.delta = delta.mutable_data_ptr();
  run_attention_backward(current_isa(), call.dtype, p, dbias ? dbias->mutable_data_ptr() : nullptr,
                         dsink ? dsink->mutable_data_ptr() : nullptr);
}

}  // namespace
}  // namespace lck

#define LCK_OPTIONS                                                                                        \
  "int left, int right, float softmax_scale, int? offset, Tensor? offsets, Tensor? kv_start, Tensor? "     \
  "kv_end, "                                                                                               \
  "Tensor? kv_mask, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, Tensor? segment_ids, int sink_tokens, "    \
  "int chunk, int chunk_origin, Tensor? chunk_origins, float softcap, Tensor? rel_bias, int bias_center, " \
  "Tensor? sink_logits, float dropout_p, Tensor? seed"

STABLE_TORCH_LIBRARY_FRAGMENT(lckernels_cpu, m) {
  m.def("attention_forward(Tensor q, Tensor k, Tensor v, " LCK_OPTIONS
        ", Tensor(a!) out, Tensor(b!) lse) -> ()");
  m.def(
      "attention_backward(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor "
      "lse, " LCK_OPTIONS
      ", Tensor(a!) dq, Tensor(b!) dk, Tensor(c!) dv, Tensor(d!) delta, Tensor(e!)? dbias, "
      "Tensor(f!)? dsink) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(lckernels_cpu, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&lck::attention_forward_op));
  m.impl("attention_backward", TORCH_BOX(&lck::attention_backward_op));
}
