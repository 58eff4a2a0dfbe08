#include "cpu/states/kernels.h"

#include "cpu/common/isa_dispatch.h"

namespace lck {

LCK_DISPATCH_ISA(StatesKernels, states_kernels)

int64_t num_state_tiles(const StatesParams& params) {
  return params.batch * ((params.seqlen + kStateTile - 1) / kStateTile);
}

int64_t states_scratch_bytes(const StatesParams& params) {
  // A value per state, head and query, one more per head and query, and each state's row pointer and weight.
  const int64_t values = (params.num_states + 1) * params.num_heads * kStateTile;
  return static_cast<int64_t>(sizeof(double)) * (values + 2 * params.num_states);
}

}  // namespace lck
