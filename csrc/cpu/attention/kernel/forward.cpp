// Forward of windowed attention on the CPU. Compiled once per instruction set (LCK_ISA).
#include "cpu/attention/kernel/forward_task.h"

namespace lck::LCK_ISA {

namespace {

template <typename U, typename T>
const AttentionForward kForward = {
    [](const AttentionParams& p, int64_t text, int64_t kv_head, int64_t tile, ReadAhead next, void* packed,
       void* scratch) {
      pack_key_tile<U, T>(p, p.texts[text], kv_head, tile * kTile, false, next,
                          static_cast<UnitOf<U>*>(scratch),
                          KeyTile<U>::at(p, false, static_cast<std::byte*>(packed)));
    },
    forward_task<U, T>,
    merge_splits_task<U, T>,
    [](const AttentionParams& p) { return KeyTile<U>::bytes(p, false); },
    forward_scratch_bytes<U>,
};

}  // namespace

const AttentionForward& attention_forward(DType dtype) {
#if defined(__AVX512BF16__)
  (void)dtype;
  return kForward<BFloat16Unit, BFloat16>;
#else
  switch (dtype) {
    case DType::kFloat32:
      return kForward<Float32Unit, float>;
    case DType::kBFloat16:
      return kForward<BFloat16Unit, BFloat16>;
    case DType::kFloat16:
      return kForward<Float32Unit, Float16>;
    default:
      return kForward<Float64Unit, double>;
  }
#endif
}

}  // namespace lck::LCK_ISA
