// Forward of windowed attention on the CPU. Compiled once per instruction set (LCK_ISA).
#include "cpu/attention/kernel/forward_task.h"

namespace lck::LCK_ISA {

namespace {

template <typename U, typename T>
const AttentionForwardKernels kForward = {
    [](const AttentionParams& p, int64_t sequence, int64_t kv_head, int64_t tile, ReadAhead next,
       void* packed, void* scratch) {
      pack_key_tile<U, T>(p, p.sequences[sequence], kv_head, tile * kTile, false, next,
                          static_cast<UnitOf<U>*>(scratch),
                          KeyTile<U>::at(p, false, static_cast<std::byte*>(packed)));
    },
    forward_task<U, T>,
    merge_splits_task<U, T>,
    [](const AttentionParams& p) { return KeyTile<U>::bytes(p, false); },
    forward_scratch_bytes<U>,
};

}  // namespace

const AttentionForwardKernels& attention_forward_kernels(DType dtype) {
  return for_units_of(
      dtype, []<typename U, typename T>() -> const AttentionForwardKernels& { return kForward<U, T>; });
}

}  // namespace lck::LCK_ISA
