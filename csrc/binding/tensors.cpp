#include "binding/tensors.h"

namespace lck {

DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::Double:
      return DType::kFloat64;
    default:
      STD_TORCH_CHECK(false, "lckernels: allowed dtypes are float32, bfloat16, float16, float64");
  }
}

ScalarType accumulator_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

bool same_device(const Tensor& x, const Tensor& like) {
  return x.is_cpu() == like.is_cpu() && (x.is_cpu() || x.get_device_index() == like.get_device_index());
}

HeadsTensor heads_tensor(const Tensor& x, const Tensor& like, const char* name) {
  STD_TORCH_CHECK(
      same_device(x, like) && x.scalar_type() == like.scalar_type() && x.dim() == 4 &&
          (x.size(3) <= 1 || x.numel() == 0 || x.stride(3) == 1),
      "lckernels: ", name,
      " must be (batch, seqlen, heads, dim) with a contiguous last dim, all of one device and dtype");
  return {x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}

HeadsTensor state_tensor(const Tensor& x, const Tensor& like, const char* name) {
  bool alike = x.dim() == 4 && like.dim() == 4;
  for (int64_t i = 0; alike && i < 4; ++i) alike = x.size(i) == like.size(i);
  STD_TORCH_CHECK(alike, "lckernels: ", name, " must have the shape of out");
  return heads_tensor(x, like, name);
}

HeadsTensor lse_tensor(const Tensor& x, const Tensor& out, const char* name) {
  STD_TORCH_CHECK(
      same_device(x, out) && x.dim() == 3 && x.scalar_type() == accumulator_of(out) &&
          x.size(0) == out.size(0) && x.size(1) == out.size(2) && x.size(2) == out.size(1),
      "lckernels: ", name,
      " must be (batch, num_heads, seqlen) on the outs' device, float32 (float64 for float64 outs)");
  return {x.const_data_ptr(), x.stride(0), x.stride(2), x.stride(1)};
}

StatesParams states_params(size_t num_states, const Tensor& out, const Tensor& lse) {
  StatesParams p{};
  p.out = heads_tensor(out, out, "out"), p.lse = lse_tensor(lse, out, "lse");
  p.num_states = static_cast<int64_t>(num_states);
  p.batch = out.size(0), p.seqlen = out.size(1), p.num_heads = out.size(2), p.head_dim = out.size(3);
  return p;
}

ChunkedParams chunked_params(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& extra_q,
                             const Tensor& shares, double softmax_scale) {
  STD_TORCH_CHECK(q.dim() == 3 && k.dim() == 3 && v.dim() == 3,
                  "lckernels: q, k, v must be (total_len, heads, dim)");
  STD_TORCH_CHECK(shares.dim() == 2, "lckernels: shares must be a contiguous (num_chunks, chunk_len) table");
  ChunkedParams p{};
  p.num_chunks = shares.size(0), p.chunk_len = shares.size(1);
  p.num_extra = extra_q ? extra_q->size(1) : 0;
  p.shares = table_data(shares, q, accumulator_of(q), p.num_chunks * p.chunk_len, "shares");
  AttentionParams& s = p.sequence;
  s.batch = 1, s.seqlen_q = q.size(0), s.seqlen_k = k.size(0);
  s.num_heads = q.size(1), s.num_kv_heads = k.size(1), s.head_dim = q.size(2), s.head_dim_v = v.size(2);
  s.softmax_scale = softmax_scale;
  p.extra = s;
  p.extra.batch = p.num_chunks, p.extra.seqlen_q = p.extra.seqlen_k = p.num_extra;
  return p;
}

const void* table_data(const OptionalTensor& x, const Tensor& like, ScalarType type, int64_t numel,
                       const char* name) {
  if (!x) return nullptr;
  STD_TORCH_CHECK(
      same_device(*x, like) && x->scalar_type() == type && x->is_contiguous() && x->numel() == numel,
      "lckernels: ", name, " must be a contiguous table of ", numel, " entries on q's device");
  return x->const_data_ptr();
}

}  // namespace lck
