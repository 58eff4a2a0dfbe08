#include "binding/attention_args.h"

namespace lck {

namespace {

// A contiguous (batch, num_heads, seqlen_q) tensor in the accumulator's dtype; null without one.
void* row_table(const OptionalTensor& x, const Tensor& q, const AttentionParams& p, const char* name) {
  const int64_t rows = p.batch * p.num_heads * p.seqlen_q;
  return const_cast<void*>(table_data(x, q, accumulator_of(q), rows, name));
}

// Kernels take these sizes from one tensor and read the others with them.
void check_sizes(const AttentionParams& p, const Tensor& k, const Tensor& v, int64_t seqlen, int64_t heads) {
  const bool same_batch = k.size(0) == p.batch && v.size(0) == p.batch;
  const bool same_keys = v.size(seqlen) == p.seqlen_k && v.size(heads) == p.num_kv_heads;
  STD_TORCH_CHECK(same_batch && same_keys && k.size(3) == p.head_dim,
                  "lckernels: k must have q's batch and head_dim, and v k's batch, seqlen and heads");
  STD_TORCH_CHECK(p.num_kv_heads > 0 && p.num_heads % p.num_kv_heads == 0,
                  "lckernels: the heads of q must be a multiple of those of k");
}

// A tensor with the sizes of the output.
HeadsTensor rows_tensor(const Tensor& x, const Tensor& q, const AttentionParams& p, const char* name) {
  const HeadsTensor rows = heads_tensor(x, q, name);
  STD_TORCH_CHECK(x.size(0) == p.batch && x.size(1) == p.seqlen_q && x.size(2) == p.num_heads &&
                      x.size(3) == p.head_dim_v,
                  "lckernels: ", name, " must be (batch, seqlen_q, num_heads, head_dim_v)");
  return rows;
}

}  // namespace

AttentionArgs attention_args(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o,
                             bool heads_first) {
  const int64_t seqlen = heads_first ? 2 : 1, heads = 3 - seqlen;
  AttentionArgs args{};
  AttentionParams& p = args.params;
  p.q = heads_tensor(q, q, "q", heads_first), p.k = heads_tensor(k, q, "k", heads_first);
  p.v = heads_tensor(v, q, "v", heads_first);
  p.batch = q.size(0), p.seqlen_q = q.size(seqlen), p.seqlen_k = k.size(seqlen);
  p.num_heads = q.size(heads), p.num_kv_heads = k.size(heads);
  p.head_dim = q.size(3), p.head_dim_v = v.size(3);
  check_sizes(p, k, v, seqlen, heads);
  p.window = {o.left, o.right, o.sink_tokens, o.chunk};
  p.softmax_scale = o.softmax_scale, p.softcap = o.softcap;
  const auto longs = [&](const OptionalTensor& x, int64_t numel, const char* name) {
    return table<int64_t>(x, q, ScalarType::Long, numel, name);
  };
  LayoutTables& layout = args.layout;
  layout.batch = p.batch;
  layout.num_sequences = o.cu_seqlens_q ? o.cu_seqlens_q->numel() - 1 : p.batch;
  const int64_t sequences = layout.num_sequences;
  layout.cu_seqlens_q = longs(o.cu_seqlens_q, sequences + 1, "cu_seqlens_q");
  layout.cu_seqlens_k = longs(o.cu_seqlens_k, sequences + 1, "cu_seqlens_k");
  layout.has_offset = o.offset.has_value(), layout.offset = o.offset.value_or(0);
  layout.offset_step = o.offsets && o.offsets->dim() ? 1 : 0;
  layout.offsets = longs(o.offsets, layout.offset_step ? sequences : 1, "offset");
  layout.kv_start = longs(o.kv_start, sequences, "kv_start");
  layout.kv_end = longs(o.kv_end, sequences, "kv_end");
  layout.chunk_origin = o.chunk_origin;
  layout.chunk_origin_step = o.chunk_origins && o.chunk_origins->dim() ? 1 : 0;
  layout.chunk_origins = longs(o.chunk_origins, layout.chunk_origin_step ? sequences : 1, "chunk_origin");
  layout.segment_ids = longs(o.segment_ids, p.batch * p.seqlen_k, "segment_ids");
  p.kv_mask = table<uint8_t>(o.kv_mask, q, ScalarType::Bool, p.batch * p.seqlen_k, "kv_mask");
  const ScalarType acc = accumulator_of(q);
  p.sink_logits = table_data(o.sink_logits, q, acc, p.num_heads, "sink_logits");
  if (o.rel_bias) {
    p.bias_len = o.rel_bias->size(1), p.bias_center = o.bias_center;
    p.rel_bias = table_data(o.rel_bias, q, acc, p.num_heads * p.bias_len, "rel_bias");
  }
  p.keep_scale = 1;
  if (o.seed) {
    p.dropout = true;
    p.dropout_threshold = static_cast<uint32_t>(o.dropout_p * 4294967296.0);
    p.keep_scale = 1 / (1 - o.dropout_p);
    args.seed = longs(o.seed, 1, "seed");
  }
  return args;
}

void set_results(const Tensor& q, const Tensor& out, const Tensor& lse, AttentionParams* params) {
  params->out = rows_tensor(out, q, *params, "out");
  params->lse = row_table(lse, q, *params, "lse");
}

void set_gradients(const Tensor& q, const AttentionGradients& t, AttentionParams* params) {
  AttentionParams& p = *params;
  set_results(q, t.out, t.lse, params);
  p.dout = rows_tensor(t.dout, q, p, "dout");
  p.dq = heads_tensor(t.dq, q, "dq"), p.dk = heads_tensor(t.dk, q, "dk"), p.dv = heads_tensor(t.dv, q, "dv");
  p.dlse = row_table(t.dlse, q, p, "dlse"), p.delta = row_table(t.delta, q, p, "delta");
}

}  // namespace lck
