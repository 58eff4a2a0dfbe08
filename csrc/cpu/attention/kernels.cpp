#include "cpu/attention/kernels.h"

#include "cpu/common/isa_dispatch.h"

namespace lck {

LCK_DISPATCH_ISA(AttentionForwardKernels, attention_forward_kernels)
LCK_DISPATCH_ISA(AttentionBackwardKernels, attention_backward_kernels)

}  // namespace lck
