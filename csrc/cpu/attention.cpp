// Chooses the attention passes compiled for an instruction set.
#include "cpu/attention.h"

namespace lck {

#define LCK_DECLARE(isa)                                    \
  namespace isa {                                           \
  const AttentionForward& attention_forward(DType dtype);   \
  const AttentionBackward& attention_backward(DType dtype); \
  }
LCK_DECLARE(generic)
#if defined(__x86_64__)
LCK_DECLARE(avx2)
LCK_DECLARE(avx512)
LCK_DECLARE(avx512_bf16)
#endif
#undef LCK_DECLARE

// avx512_bf16 differs from avx512 for bf16 alone.
const AttentionForward& attention_forward(Isa isa, DType dtype) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512Bf16 && dtype == DType::kBFloat16) return avx512_bf16::attention_forward(dtype);
  if (isa >= Isa::kAvx512) return avx512::attention_forward(dtype);
  if (isa >= Isa::kAvx2) return avx2::attention_forward(dtype);
#endif
  (void)isa;
  return generic::attention_forward(dtype);
}

const AttentionBackward& attention_backward(Isa isa, DType dtype) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512Bf16 && dtype == DType::kBFloat16) return avx512_bf16::attention_backward(dtype);
  if (isa >= Isa::kAvx512) return avx512::attention_backward(dtype);
  if (isa >= Isa::kAvx2) return avx2::attention_backward(dtype);
#endif
  (void)isa;
  return generic::attention_backward(dtype);
}

}  // namespace lck
