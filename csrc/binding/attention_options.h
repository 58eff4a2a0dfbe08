// The options of windowed attention as arguments of the private torch ops, listed once.
#pragma once

#include "binding/tensors.h"

// X(type in C++, name, type in the schema), in the order of the arguments. Tables of the layout are int64 and
// contiguous, kv_mask is bool, rel_bias and sink_logits have the accumulator's dtype. `offset` and
// `chunk_origin` are one number for the call, `offsets` and `chunk_origins` tables, which take precedence.
#define LCK_ATTENTION_OPTIONS(X)              \
  X(int64_t, left, "int")                     \
  X(int64_t, right, "int")                    \
  X(double, softmax_scale, "float")           \
  X(std::optional<int64_t>, offset, "int?")   \
  X(OptionalTensor, offsets, "Tensor?")       \
  X(OptionalTensor, kv_start, "Tensor?")      \
  X(OptionalTensor, kv_end, "Tensor?")        \
  X(OptionalTensor, kv_mask, "Tensor?")       \
  X(OptionalTensor, cu_seqlens_q, "Tensor?")  \
  X(OptionalTensor, cu_seqlens_k, "Tensor?")  \
  X(OptionalTensor, segment_ids, "Tensor?")   \
  X(int64_t, sink_tokens, "int")              \
  X(int64_t, chunk, "int")                    \
  X(int64_t, chunk_origin, "int")             \
  X(OptionalTensor, chunk_origins, "Tensor?") \
  X(double, softcap, "float")                 \
  X(OptionalTensor, rel_bias, "Tensor?")      \
  X(int64_t, bias_center, "int")              \
  X(OptionalTensor, sink_logits, "Tensor?")   \
  X(double, dropout_p, "float")               \
  X(OptionalTensor, seed, "Tensor?")

#define LCK_OPTION_FIELD(type, name, schema) type name;
#define LCK_OPTION_PARAMETER(type, name, schema) type name,
#define LCK_OPTION_VALUE(type, name, schema) name,
#define LCK_OPTION_SCHEMA(type, name, schema) schema " " #name ", "

// The options in an op's schema and in its function's signature, each with a comma at the end; and the struct
// of the function's arguments.
#define LCK_ATTENTION_SCHEMA LCK_ATTENTION_OPTIONS(LCK_OPTION_SCHEMA)
#define LCK_ATTENTION_PARAMETERS LCK_ATTENTION_OPTIONS(LCK_OPTION_PARAMETER)
#define LCK_ATTENTION_VALUES                \
  lck::AttentionOptions {                   \
    LCK_ATTENTION_OPTIONS(LCK_OPTION_VALUE) \
  }

namespace lck {

struct AttentionOptions {
  LCK_ATTENTION_OPTIONS(LCK_OPTION_FIELD)
};

}  // namespace lck
