// The arguments of the private ops of merge_attention_states as StatesParams.
#pragma once

#include <vector>

#include "binding/tensors.h"

namespace lck {

using Tensors = std::vector<Tensor>;

// The sizes of a merge, out and lse. Raises unless outs and lses are equally many, at least one; their rows
// are for the caller to set (state_rows).
StatesParams states_params(const Tensors& outs, const Tensors& lses, const Tensor& out, const Tensor& lse);

// dout and dlse, where given. Raises unless douts and dlses are as many as the states.
void set_state_gradients(const OptionalTensor& dout, const OptionalTensor& dlse, const Tensors& douts,
                         const Tensors& dlses, const Tensor& out, StatesParams* params);

// rows[n] = tensor n, of the shape of out (batch, seqlen, num_heads, head_dim), with a contiguous last dim.
void state_rows(const Tensors& tensors, const Tensor& out, const char* name, HeadsTensor* rows);

// rows[n] = tensor n, (batch, num_heads, seqlen) of any strides, in the accumulator's dtype of out.
void lse_rows(const Tensors& tensors, const Tensor& out, const char* name, HeadsTensor* rows);

}  // namespace lck
