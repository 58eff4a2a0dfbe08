// The private torch ops of chunked attention. All tensors are on the CPU with a contiguous last dim; `shares`
// (num_chunks, chunk_len) has the accumulator's dtype.
#include "cpu/chunked/run.h"
#include "cpu/common/tensor_args.h"

namespace lck {
namespace {

// (total_len, heads, dim) as a batch of one.
HeadsTensor of_sequence(const Tensor& x) {
  STD_TORCH_CHECK(x.is_cpu() && x.dim() == 3 && (x.size(2) <= 1 || x.numel() == 0 || x.stride(2) == 1),
                  "lckernels_cpu: q, k, v, out must be (total_len, heads, dim) with a contiguous last dim");
  return {x.const_data_ptr(), 0, x.stride(0), x.stride(1)};
}

HeadsTensor of_chunks(const OptionalTensor& x) {
  if (!x) return {};
  STD_TORCH_CHECK(x->is_cpu() && x->dim() == 4 && (x->size(3) <= 1 || x->numel() == 0 || x->stride(3) == 1),
                  "lckernels_cpu: extra rows must be (num_chunks, E, heads, dim) with a contiguous last dim");
  return {x->const_data_ptr(), x->stride(0), x->stride(1), x->stride(2)};
}

struct Call {
  ChunkedParams params{};
  ChunkedTables tables;
  DType dtype;

  Call(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& extra_q,
       const OptionalTensor& extra_k, const OptionalTensor& extra_v, const Tensor& segments,
       const Tensor& shares, double softmax_scale)
      : dtype(dtype_of(q)) {
    STD_TORCH_CHECK(segments.is_cpu() && segments.scalar_type() == ScalarType::Int &&
                        segments.is_contiguous() && segments.dim() == 2 &&
                        segments.size(1) * sizeof(int32_t) == sizeof(Segment),
                    "lckernels_cpu: segments must be a contiguous (num_segments, 10) int32 tensor");
    params = chunked_params(q, k, v, extra_q, shares, softmax_scale);
    AttentionParams &sequence = params.sequence, &extra = params.extra;
    sequence.q = of_sequence(q), sequence.k = of_sequence(k), sequence.v = of_sequence(v);
    extra.q = of_chunks(extra_q), extra.k = of_chunks(extra_k), extra.v = of_chunks(extra_v);
    build_chunked_tables(static_cast<const Segment*>(segments.const_data_ptr()), segments.size(0), &tables,
                         &params);
  }
};

void chunked_forward(Tensor q, Tensor k, Tensor v, OptionalTensor extra_q, OptionalTensor extra_k,
                     OptionalTensor extra_v, Tensor segments, Tensor shares, double softmax_scale, Tensor out,
                     OptionalTensor extra_out) {
  Call call(q, k, v, extra_q, extra_k, extra_v, segments, shares, softmax_scale);
  prepare_output(out, true);
  call.params.sequence.out = of_sequence(out);
  call.params.extra.out = of_chunks(extra_out);
  run_chunked_forward(current_isa(), call.dtype, call.params);
}

void chunked_backward(Tensor dout, OptionalTensor dextra_out, Tensor q, Tensor k, Tensor v,
                      OptionalTensor extra_q, OptionalTensor extra_k, OptionalTensor extra_v, Tensor segments,
                      Tensor shares, double softmax_scale, Tensor dq, Tensor dk, Tensor dv,
                      OptionalTensor dextra_q, OptionalTensor dextra_k, OptionalTensor dextra_v,
                      OptionalTensor row_dots) {
  Call call(q, k, v, extra_q, extra_k, extra_v, segments, shares, softmax_scale);
  AttentionParams &s = call.params.sequence, &e = call.params.extra;
  for (const Tensor& grad : {dq, dk, dv}) prepare_output(grad, true);
  s.dout = of_sequence(dout);
  s.dq = of_sequence(dq), s.dk = of_sequence(dk), s.dv = of_sequence(dv);
  e.dout = of_chunks(dextra_out);
  e.dq = of_chunks(dextra_q), e.dk = of_chunks(dextra_k), e.dv = of_chunks(dextra_v);
  call.params.extra_queries = dextra_out.has_value() && call.params.num_extra > 0;
  run_chunked_backward(current_isa(), call.dtype, call.params,
                       row_dots ? row_dots->mutable_data_ptr() : nullptr);
}

}  // namespace
}  // namespace lck

STABLE_TORCH_LIBRARY_FRAGMENT(lckernels_cpu, m) {
  m.def(
      "chunked_forward(Tensor q, Tensor k, Tensor v, Tensor? extra_q, Tensor? extra_k, Tensor? extra_v, "
      "Tensor segments, Tensor shares, float softmax_scale, Tensor(a!) out, Tensor(b!)? extra_out) -> ()");
  m.def(
      "chunked_backward(Tensor dout, Tensor? dextra_out, Tensor q, Tensor k, Tensor v, Tensor? extra_q, "
      "Tensor? extra_k, Tensor? extra_v, Tensor segments, Tensor shares, float softmax_scale, Tensor(a!) dq, "
      "Tensor(b!) dk, Tensor(c!) dv, Tensor(d!)? dextra_q, Tensor(e!)? dextra_k, Tensor(f!)? dextra_v, "
      "Tensor(g!)? row_dots) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(lckernels_cpu, CPU, m) {
  m.impl("chunked_forward", TORCH_BOX(&lck::chunked_forward));
  m.impl("chunked_backward", TORCH_BOX(&lck::chunked_backward));
}
