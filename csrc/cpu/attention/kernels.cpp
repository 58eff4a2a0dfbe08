// Chooses the passes of windowed and chunked attention compiled for an instruction set.
#include "cpu/attention/kernels.h"

#include "cpu/chunked/kernels.h"

namespace lck {

#define LCK_DECLARE(isa)                                    \
  namespace isa {                                           \
  const AttentionForward& attention_forward(DType dtype);   \
  const AttentionBackward& attention_backward(DType dtype); \
  const ChunkedPasses& chunked_passes(DType dtype);         \
  }
LCK_DECLARE(generic)
#if defined(__x86_64__)
LCK_DECLARE(avx2)
LCK_DECLARE(avx512)
LCK_DECLARE(avx512_bf16)
#endif
#undef LCK_DECLARE

// avx512_bf16 differs from avx512 for bf16 alone.
#if defined(__x86_64__)
  #define LCK_CHOOSE(passes)                                                                     \
    if (isa >= Isa::kAvx512Bf16 && dtype == DType::kBFloat16) return avx512_bf16::passes(dtype); \
    if (isa >= Isa::kAvx512) return avx512::passes(dtype);                                       \
    if (isa >= Isa::kAvx2) return avx2::passes(dtype);                                           \
    return generic::passes(dtype);
#else
  #define LCK_CHOOSE(passes) \
    (void)isa;               \
    return generic::passes(dtype);
#endif

const AttentionForward& attention_forward(Isa isa, DType dtype) {
  LCK_CHOOSE(attention_forward)
}

const AttentionBackward& attention_backward(Isa isa, DType dtype) {
  LCK_CHOOSE(attention_backward)
}

const ChunkedPasses& chunked_passes(Isa isa, DType dtype) {
  LCK_CHOOSE(chunked_passes)
}
#undef LCK_CHOOSE

}  // namespace lck
