// Chooses at run time among kernels that are compiled once per instruction set.
#pragma once

#include "host/cpu_features.h"
#include "params.h"

// LCK_DISPATCH_ISA(Kernels, name) defines `const Kernels& name(Isa isa, DType dtype)`, which returns
// <namespace>::name(dtype) of the build for `isa`. Use it in namespace lck. avx512_bf16 is a build for
// bfloat16 only: the other dtypes have the same kernels as with avx512.
#define LCK_DECLARE_ISA(isa, Kernels, name) \
  namespace isa {                           \
  const Kernels& name(DType dtype);         \
  }

#if defined(__x86_64__)
  #define LCK_DISPATCH_ISA(Kernels, name)                                                        \
    LCK_DECLARE_ISA(generic, Kernels, name)                                                      \
    LCK_DECLARE_ISA(avx2, Kernels, name)                                                         \
    LCK_DECLARE_ISA(avx512, Kernels, name)                                                       \
    LCK_DECLARE_ISA(avx512_bf16, Kernels, name)                                                  \
    const Kernels& name(Isa isa, DType dtype) {                                                  \
      if (isa >= Isa::kAvx512Bf16 && dtype == DType::kBFloat16) return avx512_bf16::name(dtype); \
      if (isa >= Isa::kAvx512) return avx512::name(dtype);                                       \
      if (isa >= Isa::kAvx2) return avx2::name(dtype);                                           \
      return generic::name(dtype);                                                               \
    }
#else
  #define LCK_DISPATCH_ISA(Kernels, name)   \
    LCK_DECLARE_ISA(generic, Kernels, name) \
    const Kernels& name(Isa, DType dtype) { \
      return generic::name(dtype);          \
    }
#endif
