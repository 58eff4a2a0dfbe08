// The arguments of the private ops of chunked attention as ChunkedParams.
#pragma once

#include "binding/tensors.h"

namespace lck {

// q, k, v (total_len, heads, dim) and the extra tokens' (num_chunks, num_extra, heads, dim), if there are
// any.
struct ChunkedInputs {
  const Tensor &q, &k, &v;
  const OptionalTensor &extra_q, &extra_k, &extra_v;
};

// The sizes, the inputs, the scale and the weights' table `merge_weights` (num_chunks, chunk_len); without
// results and without the plan's tables.
ChunkedParams chunked_params(const ChunkedInputs& inputs, const Tensor& merge_weights, double softmax_scale);

// The plan's segments, (num_segments, 10) int32.
const Segment* segment_table(const Tensor& segments, const Tensor& like);

// out like q with v's last dim, and the extra tokens' outputs.
void set_results(const Tensor& q, const Tensor& out, const OptionalTensor& extra_out, ChunkedParams* params);

// The gradients of the outputs, which the backward reads, and those of the inputs, which it writes.
struct ChunkedGradients {
  const Tensor& dout;
  const OptionalTensor& dextra_out;
  const Tensor &dq, &dk, &dv;
  const OptionalTensor &dextra_q, &dextra_k, &dextra_v;
};
void set_gradients(const Tensor& q, const ChunkedGradients& gradients, ChunkedParams* params);

}  // namespace lck
