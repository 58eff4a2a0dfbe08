#include "binding/chunked_args.h"

namespace lck {

namespace {

// (total_len, heads, dim) as a batch of one.
HeadsTensor sequence_rows(const Tensor& x, const Tensor& like, const char* name) {
  STD_TORCH_CHECK(same_device(x, like) && x.scalar_type() == like.scalar_type() && x.dim() == 3 &&
                      (x.size(2) <= 1 || x.numel() == 0 || x.stride(2) == 1),
                  "lckernels: ", name,
                  " must be (total_len, heads, dim) with a contiguous last dim, all of one device and dtype");
  return {x.const_data_ptr(), 0, x.stride(0), x.stride(1)};
}

HeadsTensor extra_rows(const OptionalTensor& x, const Tensor& like, const char* name) {
  return x ? heads_tensor(*x, like, name) : HeadsTensor{};
}

// A tensor of the length of `like` with these sizes.
HeadsTensor sized_rows(const Tensor& x, const Tensor& like, int64_t heads, int64_t dim, const char* name) {
  const HeadsTensor rows = sequence_rows(x, like, name);
  const int64_t total_len = like.size(0);
  STD_TORCH_CHECK(x.size(0) == total_len && x.size(1) == heads && x.size(2) == dim, "lckernels: ", name,
                  " must be (total_len, heads, dim) = (", total_len, ", ", heads, ", ", dim, ")");
  return rows;
}

bool has_extra_sizes(const OptionalTensor& x, const ChunkedParams& p, int64_t heads, int64_t dim) {
  return !x || (x->size(0) == p.num_chunks && x->size(1) == p.num_extra && x->size(2) == heads &&
                x->size(3) == dim);
}

HeadsTensor sized_extra(const OptionalTensor& x, const Tensor& q, const ChunkedParams& p, int64_t heads,
                        int64_t dim, const char* name) {
  const HeadsTensor rows = extra_rows(x, q, name);
  STD_TORCH_CHECK(has_extra_sizes(x, p, heads, dim), "lckernels: ", name,
                  " must be (num_chunks, num_extra, heads, dim) = (", p.num_chunks, ", ", p.num_extra, ", ",
                  heads, ", ", dim, ")");
  return rows;
}

// Kernels take these sizes from q and k and read the other tensors with them.
void check_sizes(const ChunkedInputs& t, const ChunkedParams& p) {
  const AttentionParams& s = p.sequence;
  STD_TORCH_CHECK(s.seqlen_k == s.seqlen_q && t.v.size(0) == s.seqlen_q && t.v.size(1) == s.num_kv_heads &&
                      t.k.size(2) == s.head_dim,
                  "lckernels: k must have q's total_len and head_dim, and v k's total_len and heads");
  STD_TORCH_CHECK(s.num_kv_heads > 0 && s.num_heads % s.num_kv_heads == 0,
                  "lckernels: the heads of q must be a multiple of those of k");
  const auto fits = [&](const OptionalTensor& x, int64_t heads, int64_t dim) {
    return x.has_value() == t.extra_q.has_value() && has_extra_sizes(x, p, heads, dim);
  };
  STD_TORCH_CHECK(fits(t.extra_q, s.num_heads, s.head_dim) && fits(t.extra_k, s.num_kv_heads, s.head_dim) &&
                      fits(t.extra_v, s.num_kv_heads, s.head_dim_v),
                  "lckernels: extra tokens must be (num_chunks, num_extra, heads, dim), as q, k and v");
}

}  // namespace

ChunkedParams chunked_params(const ChunkedInputs& t, const Tensor& merge_weights, double softmax_scale) {
  STD_TORCH_CHECK(merge_weights.dim() == 2,
                  "lckernels: merge_weights must be a contiguous (num_chunks, chunk_len) table");
  const Tensor& q = t.q;
  ChunkedParams p{};
  AttentionParams &s = p.sequence, &e = p.extra;
  s.q = sequence_rows(q, q, "q"), s.k = sequence_rows(t.k, q, "k"), s.v = sequence_rows(t.v, q, "v");
  p.num_chunks = merge_weights.size(0), p.chunk_len = merge_weights.size(1);
  p.num_extra = t.extra_q ? t.extra_q->size(1) : 0;
  p.merge_weights =
      table_data(merge_weights, q, accumulator_of(q), p.num_chunks * p.chunk_len, "merge_weights");
  s.batch = 1, s.seqlen_q = q.size(0), s.seqlen_k = t.k.size(0);
  s.num_heads = q.size(1), s.num_kv_heads = t.k.size(1), s.head_dim = q.size(2), s.head_dim_v = t.v.size(2);
  s.softmax_scale = softmax_scale;
  e = s;
  e.batch = p.num_chunks, e.seqlen_q = e.seqlen_k = p.num_extra;
  e.q = extra_rows(t.extra_q, q, "extra_q"), e.k = extra_rows(t.extra_k, q, "extra_k");
  e.v = extra_rows(t.extra_v, q, "extra_v");
  check_sizes(t, p);
  return p;
}

const Segment* segment_table(const Tensor& segments, const Tensor& like) {
  const int64_t fields = sizeof(Segment) / sizeof(int32_t), count = segments.dim() ? segments.size(0) : 0;
  return table<Segment>(segments, like, ScalarType::Int, count * fields, "segments");
}

void set_results(const Tensor& q, const Tensor& out, const OptionalTensor& extra_out, ChunkedParams* params) {
  const AttentionParams& s = params->sequence;
  params->sequence.out = sized_rows(out, q, s.num_heads, s.head_dim_v, "out");
  params->extra.out = sized_extra(extra_out, q, *params, s.num_heads, s.head_dim_v, "extra_out");
}

void set_gradients(const Tensor& q, const ChunkedGradients& t, ChunkedParams* params) {
  AttentionParams &s = params->sequence, &e = params->extra;
  const int64_t heads = s.num_heads, kv_heads = s.num_kv_heads, dim = s.head_dim, dim_v = s.head_dim_v;
  s.dout = sized_rows(t.dout, q, heads, dim_v, "dout"), s.dq = sized_rows(t.dq, q, heads, dim, "dq");
  s.dk = sized_rows(t.dk, q, kv_heads, dim, "dk"), s.dv = sized_rows(t.dv, q, kv_heads, dim_v, "dv");
  const auto extra = [&](const OptionalTensor& x, int64_t num_heads, int64_t size, const char* name) {
    return sized_extra(x, q, *params, num_heads, size, name);
  };
  e.dout = extra(t.dextra_out, heads, dim_v, "dextra_out"), e.dq = extra(t.dextra_q, heads, dim, "dextra_q");
  e.dk = extra(t.dextra_k, kv_heads, dim, "dextra_k"), e.dv = extra(t.dextra_v, kv_heads, dim_v, "dextra_v");
  params->extra_queries = t.dextra_out.has_value() && params->num_extra > 0;
}

}  // namespace lck
