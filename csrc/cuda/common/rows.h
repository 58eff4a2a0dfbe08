// What the attention kernels require of their tensors: 16-bit elements, rows aligned for copies of 16 bytes.
#pragma once

#include <cstdint>

#include "binding/tensors.h"

namespace lck {

inline void check_attention_dtype(const Tensor& q) {
  const DType dtype = dtype_of(q);
  STD_TORCH_CHECK(dtype == DType::kBFloat16 || dtype == DType::kFloat16,
                  "lckernels_cuda: attention supports bfloat16 and float16");
}

// Rows of x begin at multiples of 16 bytes and are whole units of 16 bytes.
inline void check_rows(const Tensor& x, const char* name) {
  const int64_t last = x.dim() - 1;
  int64_t strides = 0;
  for (int64_t i = 0; i < last; ++i) strides |= x.stride(i);
  const bool aligned =
      reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0 && strides % 8 == 0 && x.size(last) % 8 == 0;
  STD_TORCH_CHECK((aligned && x.stride(last) == 1) || x.numel() == 0, "lckernels_cuda: ", name,
                  " must have contiguous rows aligned to 16 bytes");
}

inline void check_rows(const OptionalTensor& x, const char* name) {
  if (x) check_rows(*x, name);
}

}  // namespace lck
