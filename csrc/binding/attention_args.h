// The arguments of the private ops of windowed attention as AttentionParams.
#pragma once

#include "binding/attention_options.h"
#include "binding/tensors.h"
#include "layout.h"

namespace lck {

// The parameters of a call without its results and the tables made from its layout. Pointers are to the
// device's memory.
struct AttentionArgs {
  AttentionParams params;
  LayoutTables layout;
  const int64_t* seed;  // (1), or null without dropout
};

// q, k, v are (batch, seqlen, heads, head_dim); with heads_first (batch, heads, seqlen, head_dim).
AttentionArgs attention_args(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o,
                             bool heads_first = false);

// out (batch, seqlen_q, num_heads, head_dim_v) and lse (batch, num_heads, seqlen_q).
void set_results(const Tensor& q, const Tensor& out, const Tensor& lse, AttentionParams* params);

// The tensors that the backward reads and writes besides q, k, v and the gradients of the score.
struct AttentionGradients {
  const Tensor& dout;
  const OptionalTensor& dlse;
  const Tensor &out, &lse, &dq, &dk, &dv, &delta;
};
void set_gradients(const Tensor& q, const AttentionGradients& tensors, AttentionParams* params);

}  // namespace lck
