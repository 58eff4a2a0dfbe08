// Chooses the merge passes compiled for an instruction set.
#include "cpu/states/kernels.h"

namespace lck {

namespace generic {
const StatesKernels& states_kernels(DType dtype);
}
#if defined(__x86_64__)
namespace avx2 {
const StatesKernels& states_kernels(DType dtype);
}
namespace avx512 {
const StatesKernels& states_kernels(DType dtype);
}
#endif

const StatesKernels& states_kernels(Isa isa, DType dtype) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) return avx512::states_kernels(dtype);
  if (isa >= Isa::kAvx2) return avx2::states_kernels(dtype);
#endif
  (void)isa;
  return generic::states_kernels(dtype);
}

int64_t num_state_tiles(const StatesParams& params) {
  return params.batch * ((params.seqlen + kStateTile - 1) / kStateTile);
}

int64_t states_scratch_bytes(const StatesParams& params) {
  // A value per state, head and query, one more per head and query, and each state's row pointer and share.
  const int64_t values = (params.num_states + 1) * params.num_heads * kStateTile;
  return static_cast<int64_t>(sizeof(double)) * (values + 2 * params.num_states);
}

}  // namespace lck
