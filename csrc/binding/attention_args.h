// The arguments of the private ops of windowed attention beside the tensors of results: tables of the layout
// are int64 and contiguous, kv_mask is bool, rel_bias and sink_logits have the accumulator's dtype.
#pragma once

#include "binding/tensors.h"
#include "layout.h"

// The ops' arguments after their tensors, in the schema and in a function's signature.
#define LCK_ATTENTION_SCHEMA                                                                               \
  "int left, int right, float softmax_scale, int? offset, Tensor? offsets, Tensor? kv_start, "             \
  "Tensor? kv_end, Tensor? kv_mask, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, Tensor? segment_ids, "     \
  "int sink_tokens, int chunk, int chunk_origin, Tensor? chunk_origins, float softcap, Tensor? rel_bias, " \
  "int bias_center, Tensor? sink_logits, float dropout_p, Tensor? seed"
#define LCK_ATTENTION_SIGNATURE                                                                             \
  int64_t left, int64_t right, double softmax_scale, std::optional<int64_t> offset, OptionalTensor offsets, \
      OptionalTensor kv_start, OptionalTensor kv_end, OptionalTensor kv_mask, OptionalTensor cu_seqlens_q,  \
      OptionalTensor cu_seqlens_k, OptionalTensor segment_ids, int64_t sink_tokens, int64_t chunk,          \
      int64_t chunk_origin, OptionalTensor chunk_origins, double softcap, OptionalTensor rel_bias,          \
      int64_t bias_center, OptionalTensor sink_logits, double dropout_p, OptionalTensor seed
#define LCK_ATTENTION_OPTIONS                                                                           \
  lck::AttentionOptions {                                                                               \
    left, right, softmax_scale, offset, offsets, kv_start, kv_end, kv_mask, cu_seqlens_q, cu_seqlens_k, \
        segment_ids, sink_tokens, chunk, chunk_origin, chunk_origins, softcap, rel_bias, bias_center,   \
        sink_logits, dropout_p, seed                                                                    \
  }

namespace lck {

struct AttentionOptions {
  int64_t left, right;
  double softmax_scale;
  std::optional<int64_t> offset;
  OptionalTensor offsets, kv_start, kv_end, kv_mask, cu_seqlens_q, cu_seqlens_k, segment_ids;
  int64_t sink_tokens, chunk, chunk_origin;
  OptionalTensor chunk_origins;
  double softcap;
  OptionalTensor rel_bias;
  int64_t bias_center;
  OptionalTensor sink_logits;
  double dropout_p;
  OptionalTensor seed;
};

// A call's parameters without those that tables are made for, and its layout; pointers are to the device's
// memory.
struct AttentionArgs {
  AttentionParams params;
  LayoutTables layout;
  const int64_t* seed;  // (1), or null without dropout
};

AttentionArgs attention_args(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o);

}  // namespace lck
