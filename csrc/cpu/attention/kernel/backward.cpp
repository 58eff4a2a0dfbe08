// Backward of windowed attention on the CPU. Compiled once per instruction set (LCK_ISA).
#include "cpu/attention/kernel/gradients.h"

namespace lck::LCK_ISA {

namespace {

template <typename U, typename T>
const AttentionBackward kBackward = {
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

const AttentionBackward& attention_backward(DType dtype) {
#if defined(__AVX512BF16__)
  (void)dtype;
  return kBackward<BFloat16Unit, BFloat16>;
#else
  switch (dtype) {
    case DType::kFloat32:
      return kBackward<Float32Unit, float>;
    case DType::kBFloat16:
      return kBackward<BFloat16Unit, BFloat16>;
    case DType::kFloat16:
      return kBackward<Float32Unit, Float16>;
    default:
      return kBackward<Float64Unit, double>;
  }
#endif
}

}  // namespace lck::LCK_ISA
