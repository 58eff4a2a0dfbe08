// The private torch ops of chunked attention. merge_weights (num_chunks, chunk_len) are normalized, in the
// accumulator's dtype.
#include "binding/chunked_args.h"
#include "cpu/chunked/run.h"
#include "cpu/common/tensor_args.h"

namespace lck {
namespace {

struct Call {
  ChunkedParams params;
  ChunkedTables tables;
  DType dtype;

  Call(const ChunkedInputs& inputs, const Tensor& segments, const Tensor& merge_weights, double softmax_scale)
      : params(chunked_params(inputs, merge_weights, softmax_scale)), dtype(dtype_of(inputs.q)) {
    STD_TORCH_CHECK(inputs.q.is_cpu(), "lckernels_cpu: all tensors must be on the CPU");
    build_chunked_tables(segment_table(segments, inputs.q), segments.size(0), &tables, &params);
  }
};

void chunked_forward(Tensor q, Tensor k, Tensor v, OptionalTensor extra_q, OptionalTensor extra_k,
                     OptionalTensor extra_v, Tensor segments, Tensor merge_weights, double softmax_scale,
                     Tensor out, OptionalTensor extra_out) {
  Call call({q, k, v, extra_q, extra_k, extra_v}, segments, merge_weights, softmax_scale);
  prepare_output(out);
  set_results(q, out, extra_out, &call.params);
  run_chunked_forward(current_isa(), call.dtype, call.params);
}

void chunked_backward(Tensor dout, OptionalTensor dextra_out, Tensor q, Tensor k, Tensor v,
                      OptionalTensor extra_q, OptionalTensor extra_k, OptionalTensor extra_v, Tensor segments,
                      Tensor merge_weights, double softmax_scale, Tensor dq, Tensor dk, Tensor dv,
                      OptionalTensor dextra_q, OptionalTensor dextra_k, OptionalTensor dextra_v,
                      OptionalTensor row_dots) {
  Call call({q, k, v, extra_q, extra_k, extra_v}, segments, merge_weights, softmax_scale);
  for (const Tensor& grad : {dq, dk, dv}) prepare_output(grad);
  set_gradients(q, {dout, dextra_out, dq, dk, dv, dextra_q, dextra_k, dextra_v}, &call.params);
  const ChunkedParams& p = call.params;
  const void* dots = table_data(row_dots, q, accumulator_of(q), p.num_chunks * p.chunk_len, "row_dots");
  run_chunked_backward(current_isa(), call.dtype, p, const_cast<void*>(dots));
}

}  // namespace
}  // namespace lck

STABLE_TORCH_LIBRARY_FRAGMENT(lckernels_cpu, m) {
  m.def(
      "chunked_forward(Tensor q, Tensor k, Tensor v, Tensor? extra_q, Tensor? extra_k, Tensor? extra_v, "
      "Tensor segments, Tensor merge_weights, float softmax_scale, Tensor(a!) out, Tensor(b!)? extra_out) -> "
      "()");
  m.def(
      "chunked_backward(Tensor dout, Tensor? dextra_out, Tensor q, Tensor k, Tensor v, Tensor? extra_q, "
      "Tensor? extra_k, Tensor? extra_v, Tensor segments, Tensor merge_weights, float softmax_scale, "
      "Tensor(a!) dq, "
      "Tensor(b!) dk, Tensor(c!) dv, Tensor(d!)? dextra_q, Tensor(e!)? dextra_k, Tensor(f!)? dextra_v, "
      "Tensor(g!)? row_dots) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(lckernels_cpu, CPU, m) {
  m.impl("chunked_forward", TORCH_BOX(&lck::chunked_forward));
  m.impl("chunked_backward", TORCH_BOX(&lck::chunked_backward));
}
