#include "cpu/chunked/kernels.h"

#include "cpu/common/isa_dispatch.h"

namespace lck {

LCK_DISPATCH_ISA(ChunkedKernels, chunked_kernels)

}  // namespace lck
