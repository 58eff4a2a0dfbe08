// Backward of windowed attention on the CPU. Compiled once per instruction set (LCK_ISA).
#include "cpu/attention/key_grad.h"

namespace lck::LCK_ISA {

namespace {

template <typename U, typename T>
const AttentionBackward kBackward = {
    backward_queries_task<U, T>,
    backward_keys_task<U, T>,
    [](const AttentionParams& p) {
      Arena queries{nullptr}, keys{nullptr};
      QueryGradScratch<U>::of(&queries, p);
      KeyGradScratch<U>::of(&keys, p);
      return larger_of(queries.used, keys.used);
    },
};

}  // namespace

const AttentionBackward& attention_backward(DType dtype) {
#if defined(__AVX512BF16__)
  (void)dtype;
  return kBackward<BFloat16Pair, BFloat16>;
#else
  switch (dtype) {
    case DType::kFloat32:
      return kBackward<Float32Unit, float>;
    case DType::kBFloat16:
      return kBackward<Float32Unit, BFloat16>;
    case DType::kFloat16:
      return kBackward<Float32Unit, Float16>;
    default:
      return kBackward<Float64Unit, double>;
  }
#endif
}

}  // namespace lck::LCK_ISA
