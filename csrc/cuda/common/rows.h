// What the attention ops ask of their tensors: 16-bit elements, rows where a copy of 16 bytes may begin.
#pragma once

#include <cstdint>

#include "binding/tensors.h"

namespace lck {

inline void check_attention_dtype(const Tensor& q) {
  const DType dtype = dtype_of(q);
  STD_TORCH_CHECK(dtype == DType::kBFloat16 || dtype == DType::kFloat16,
                  "lckernels_cuda: attention takes bfloat16 and float16");
}

// `rows` are those of x, whose last dim comes last.
inline HeadsTensor aligned_rows(const HeadsTensor& rows, const Tensor& x, const Tensor& q, const char* name) {
  const int64_t strides = rows.batch_stride | rows.row_stride | rows.head_stride, dim = x.size(x.dim() - 1);
  const bool aligned = reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && strides % 8 == 0 && dim % 8 == 0;
  const bool alike = same_device(x, q) && x.scalar_type() == q.scalar_type();
  STD_TORCH_CHECK(alike && ((aligned && x.stride(x.dim() - 1) == 1) || x.numel() == 0),
                  "lckernels_cuda: ", name,
                  " must have rows aligned to 16 bytes, like q in device and dtype");
  return rows;
}

inline HeadsTensor aligned_heads(const Tensor& x, const Tensor& q, const char* name) {
  return aligned_rows(heads_tensor(x, q, name), x, q, name);
}

}  // namespace lck
