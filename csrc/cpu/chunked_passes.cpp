// Chunked attention on the CPU. Compiled once per instruction set (LCK_ISA).
#include "cpu/attention/chunked.h"

namespace lck::LCK_ISA {

namespace {

template <typename U, typename T>
const ChunkedPasses kChunked = {
    [](const ChunkedParams& p, const ChunkedTask& task, bool states, const PackedTiles& packed,
       void* scratch) {
      if (task.chunk >= 0) {
        chunked_extra<U, T>(p, task, states, packed, scratch);
      } else {
        chunked_positions<U, T>(p, task, states, packed, scratch);
      }
    },
    chunked_query_grads<U, T>,
    chunked_key_grads<U, T>,
    [](const ChunkedParams& p) {
      Arena outputs{nullptr}, queries{nullptr}, keys{nullptr};
      ForwardScratch<U>::of(&outputs, p.sequence);
      outputs.take<AccOf<U>>(kQueryTileRows * padded_columns<U>(p.sequence.head_dim_v));
      QueryGradScratch<U>::of(&queries, p.sequence);
      KeyTile<U>::of(&queries, p.sequence, true);
      queries.take<AccOf<U>>(kQueryTileRows * padded_columns<U>(p.sequence.head_dim));
      KeyGradScratch<U>::of(&keys, p.sequence, kKeyTileRows / kTile);
      return larger_of(outputs.used, larger_of(queries.used, keys.used));
    },
};

}  // namespace

const ChunkedPasses& chunked_passes(DType dtype) {
#if defined(__AVX512BF16__)
  (void)dtype;
  return kChunked<BFloat16Unit, BFloat16>;
#else
  switch (dtype) {
    case DType::kFloat32:
      return kChunked<Float32Unit, float>;
    case DType::kBFloat16:
      return kChunked<BFloat16Unit, BFloat16>;
    case DType::kFloat16:
      return kChunked<Float32Unit, Float16>;
    default:
      return kChunked<Float64Unit, double>;
  }
#endif
}

}  // namespace lck::LCK_ISA
