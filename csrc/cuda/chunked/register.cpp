// The private torch ops of chunked attention on a GPU; outputs are allocated by the caller. shares
// (num_chunks, chunk_len) is fp32; chunk_bounds (num_chunks + 1) int64 and chunk_segments (num_segments)
// int32 are the plan's segments by their chunks; lse and dots are (num_chunks, num_heads, chunk_len +
// num_extra) fp32.
#include "cuda/chunked/launch.h"
#include "cuda/common/rows.h"
#include "cuda/device.h"

namespace lck {
namespace {

// Tensors that stand for the plan, and each chunk column's share.
struct Plan {
  Tensor segments, tile_segments, chunk_bounds, chunk_segments, shares;
};

HeadsTensor of_sequence(const Tensor& x, const Tensor& q, const char* name) {
  STD_TORCH_CHECK(x.dim() == 3, "lckernels_cuda: ", name, " must be (total_len, heads, dim)");
  return aligned_rows({x.const_data_ptr(), 0, x.stride(0), x.stride(1)}, x, q, name);
}

HeadsTensor of_chunks(const OptionalTensor& x, const Tensor& q, const char* name) {
  return x ? aligned_heads(*x, q, name) : HeadsTensor{};
}

GpuChunkedParams gpu_params(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& extra_q,
                            const OptionalTensor& extra_k, const OptionalTensor& extra_v, const Plan& plan,
                            double softmax_scale) {
  check_attention_dtype(q);
  GpuChunkedParams a{};
  a.c = chunked_params(q, k, v, extra_q, plan.shares, softmax_scale);
  ChunkedParams& c = a.c;
  AttentionParams &s = c.sequence, &e = c.extra;
  STD_TORCH_CHECK(larger(s.head_dim, s.head_dim_v) <= kMaxChunkedHeadDim,
                  "lckernels_cuda: chunked attention takes head dims up to ", kMaxChunkedHeadDim);
  s.q = of_sequence(q, q, "q"), s.k = of_sequence(k, q, "k"), s.v = of_sequence(v, q, "v");
  e.q = of_chunks(extra_q, q, "extra_q"), e.k = of_chunks(extra_k, q, "extra_k");
  e.v = of_chunks(extra_v, q, "extra_v");
  const int64_t fields = sizeof(Segment) / sizeof(int32_t), tiles = (s.seqlen_q + kTileLen - 1) / kTileLen;
  c.num_segments = plan.segments.size(0);
  c.segments = table<Segment>(plan.segments, q, ScalarType::Int, c.num_segments * fields, "segments");
  a.tile_segments = table<int32_t>(plan.tile_segments, q, ScalarType::Int, 2 * tiles, "tile_segments");
  c.chunk_bounds = table<int64_t>(plan.chunk_bounds, q, ScalarType::Long, c.num_chunks + 1, "chunk_bounds");
  c.chunk_segments =
      table<int32_t>(plan.chunk_segments, q, ScalarType::Int, c.num_segments, "chunk_segments");
  return a;
}

void chunked_forward(Tensor q, Tensor k, Tensor v, OptionalTensor extra_q, OptionalTensor extra_k,
                     OptionalTensor extra_v, Tensor segments, Tensor tile_segments, Tensor chunk_bounds,
                     Tensor chunk_segments, Tensor shares, double softmax_scale, Tensor out,
                     OptionalTensor extra_out) {
  const Plan plan{segments, tile_segments, chunk_bounds, chunk_segments, shares};
  GpuChunkedParams a = gpu_params(q, k, v, extra_q, extra_k, extra_v, plan, softmax_scale);
  a.c.sequence.out = of_sequence(out, q, "out");
  a.c.extra.out = of_chunks(extra_out, q, "extra_out");
  on_device_of(q, "chunked_forward",
               [&](const Launch& launch) { chunked_forward_cuda(dtype_of(q), a, launch); });
}

void chunked_backward(Tensor dout, OptionalTensor dextra_out, Tensor q, Tensor k, Tensor v,
                      OptionalTensor extra_q, OptionalTensor extra_k, OptionalTensor extra_v, Tensor segments,
                      Tensor tile_segments, Tensor chunk_bounds, Tensor chunk_segments, Tensor shares,
                      double softmax_scale, Tensor dq, Tensor dk, Tensor dv, OptionalTensor dextra_q,
                      OptionalTensor dextra_k, OptionalTensor dextra_v, Tensor lse, Tensor dots) {
  const Plan plan{segments, tile_segments, chunk_bounds, chunk_segments, shares};
  GpuChunkedParams a = gpu_params(q, k, v, extra_q, extra_k, extra_v, plan, softmax_scale);
  AttentionParams &s = a.c.sequence, &e = a.c.extra;
  s.dout = of_sequence(dout, q, "dout");
  s.dq = of_sequence(dq, q, "dq"), s.dk = of_sequence(dk, q, "dk"), s.dv = of_sequence(dv, q, "dv");
  e.dout = of_chunks(dextra_out, q, "dextra_out");
  e.dq = of_chunks(dextra_q, q, "dextra_q"), e.dk = of_chunks(dextra_k, q, "dextra_k");
  e.dv = of_chunks(dextra_v, q, "dextra_v");
  a.c.extra_queries = dextra_out.has_value() && a.c.num_extra > 0;
  const int64_t rows = a.c.num_chunks * s.num_heads * (a.c.chunk_len + a.c.num_extra);
  a.lse = const_cast<float*>(table<float>(lse, q, ScalarType::Float, rows, "lse"));
  a.dots = const_cast<float*>(table<float>(dots, q, ScalarType::Float, rows, "dots"));
  on_device_of(q, "chunked_backward",
               [&](const Launch& launch) { chunked_backward_cuda(dtype_of(q), a, launch); });
}

}  // namespace
}  // namespace lck

#define LCK_CHUNKED                                                                                    \
  "Tensor q, Tensor k, Tensor v, Tensor? extra_q, Tensor? extra_k, Tensor? extra_v, Tensor segments, " \
  "Tensor tile_segments, Tensor chunk_bounds, Tensor chunk_segments, Tensor shares, float softmax_scale, "

STABLE_TORCH_LIBRARY_FRAGMENT(lckernels_cuda, m) {
  m.def("chunked_forward(" LCK_CHUNKED "Tensor(a!) out, Tensor(b!)? extra_out) -> ()");
  m.def("chunked_backward(Tensor dout, Tensor? dextra_out, " LCK_CHUNKED
        "Tensor(a!) dq, Tensor(b!) dk, Tensor(c!) dv, Tensor(d!)? dextra_q, Tensor(e!)? dextra_k, "
        "Tensor(f!)? dextra_v, Tensor(g!) lse, Tensor(h!) dots) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(lckernels_cuda, CUDA, m) {
  m.impl("chunked_forward", TORCH_BOX(&lck::chunked_forward));
  m.impl("chunked_backward", TORCH_BOX(&lck::chunked_backward));
}
