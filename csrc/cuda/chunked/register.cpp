// The private torch ops of chunked attention on a GPU; outputs are allocated by the caller. merge_weights
// (num_chunks, chunk_len) is fp32; chunk_bounds (num_chunks + 1) int64 and chunk_segments (num_segments)
// int32 are the plan's segments by their chunks; lse and dots are (num_chunks, num_heads, chunk_len +
// num_extra) fp32.
#include "binding/chunked_args.h"
#include "cuda/chunked/launch.h"
#include "cuda/common/rows.h"
#include "cuda/device.h"

namespace lck {
namespace {

// The tensors of a plan, and the normalized weight of each chunk column.
struct Plan {
  Tensor segments, tile_segments, chunk_bounds, chunk_segments, merge_weights;
};

GpuChunkedParams gpu_params(const ChunkedInputs& inputs, const Plan& plan, double softmax_scale) {
  const Tensor& q = inputs.q;
  check_attention_dtype(q);
  GpuChunkedParams a{};
  a.c = chunked_params(inputs, plan.merge_weights, softmax_scale);
  ChunkedParams& c = a.c;
  const AttentionParams& s = c.sequence;
  STD_TORCH_CHECK(larger(s.head_dim, s.head_dim_v) <= kMaxChunkedHeadDim,
                  "lckernels_cuda: chunked attention supports head dims up to ", kMaxChunkedHeadDim);
  check_rows(q, "q"), check_rows(inputs.k, "k"), check_rows(inputs.v, "v");
  check_rows(inputs.extra_q, "extra_q"), check_rows(inputs.extra_k, "extra_k");
  check_rows(inputs.extra_v, "extra_v");
  const int64_t tiles = (s.seqlen_q + kTileLen - 1) / kTileLen;
  c.num_segments = plan.segments.size(0);
  c.segments = segment_table(plan.segments, q);
  a.tile_segments = table<int32_t>(plan.tile_segments, q, ScalarType::Int, 2 * tiles, "tile_segments");
  c.chunk_bounds = table<int64_t>(plan.chunk_bounds, q, ScalarType::Long, c.num_chunks + 1, "chunk_bounds");
  c.chunk_segments =
      table<int32_t>(plan.chunk_segments, q, ScalarType::Int, c.num_segments, "chunk_segments");
  return a;
}

void chunked_forward(Tensor q, Tensor k, Tensor v, OptionalTensor extra_q, OptionalTensor extra_k,
                     OptionalTensor extra_v, Tensor segments, Tensor tile_segments, Tensor chunk_bounds,
                     Tensor chunk_segments, Tensor merge_weights, double softmax_scale, Tensor out,
                     OptionalTensor extra_out) {
  const Plan plan{segments, tile_segments, chunk_bounds, chunk_segments, merge_weights};
  GpuChunkedParams a = gpu_params({q, k, v, extra_q, extra_k, extra_v}, plan, softmax_scale);
  set_results(q, out, extra_out, &a.c);
  check_rows(out, "out"), check_rows(extra_out, "extra_out");
  on_device_of(q, "chunked_forward",
               [&](const Launch& launch) { chunked_forward_cuda(dtype_of(q), a, launch); });
}

void chunked_backward(Tensor dout, OptionalTensor dextra_out, Tensor q, Tensor k, Tensor v,
                      OptionalTensor extra_q, OptionalTensor extra_k, OptionalTensor extra_v, Tensor segments,
                      Tensor tile_segments, Tensor chunk_bounds, Tensor chunk_segments, Tensor merge_weights,
                      double softmax_scale, Tensor dq, Tensor dk, Tensor dv, OptionalTensor dextra_q,
                      OptionalTensor dextra_k, OptionalTensor dextra_v, Tensor lse, Tensor dots) {
  const Plan plan{segments, tile_segments, chunk_bounds, chunk_segments, merge_weights};
  GpuChunkedParams a = gpu_params({q, k, v, extra_q, extra_k, extra_v}, plan, softmax_scale);
  set_gradients(q, {dout, dextra_out, dq, dk, dv, dextra_q, dextra_k, dextra_v}, &a.c);
  check_rows(dout, "dout"), check_rows(dq, "dq"), check_rows(dk, "dk"), check_rows(dv, "dv");
  check_rows(dextra_out, "dextra_out"), check_rows(dextra_q, "dextra_q");
  check_rows(dextra_k, "dextra_k"), check_rows(dextra_v, "dextra_v");
  const int64_t rows = a.c.num_chunks * a.c.sequence.num_heads * (a.c.chunk_len + a.c.num_extra);
  a.lse = const_cast<float*>(table<float>(lse, q, ScalarType::Float, rows, "lse"));
  a.dots = const_cast<float*>(table<float>(dots, q, ScalarType::Float, rows, "dots"));
  on_device_of(q, "chunked_backward",
               [&](const Launch& launch) { chunked_backward_cuda(dtype_of(q), a, launch); });
}

}  // namespace
}  // namespace lck

#define LCK_CHUNKED                                                                                    \
  "Tensor q, Tensor k, Tensor v, Tensor? extra_q, Tensor? extra_k, Tensor? extra_v, Tensor segments, " \
  "Tensor tile_segments, Tensor chunk_bounds, Tensor chunk_segments, Tensor merge_weights, float "     \
  "softmax_scale, "

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
