// Backward of windowed attention on the CPU. Compiled once per instruction set (LCK_ISA).
#include "cpu/attention/kernel/gradients.h"

namespace lck::LCK_ISA {

namespace {

template <typename U, typename T>
const AttentionBackwardKernels kBackward = {
    delta_task<T>,
    strip_task<U, T>,
    zero_dq_task<T>,
    [](const AttentionParams& p) {
      return dq_sum_elements<U, T>(p) * static_cast<int64_t>(sizeof(AccOf<U>));
    },
    [](const AttentionParams& p, int64_t strip_tiles) {
      Arena arena{nullptr};
      KeyGradScratch<U>::of(&arena, p, strip_tiles);
      return arena.used;
    },
};

}  // namespace

const AttentionBackwardKernels& attention_backward_kernels(DType dtype) {
  return for_units_of(
      dtype, []<typename U, typename T>() -> const AttentionBackwardKernels& { return kBackward<U, T>; });
}

}  // namespace lck::LCK_ISA
