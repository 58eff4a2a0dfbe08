// Chunked attention on the CPU. Compiled once per instruction set (LCK_ISA).
#include "cpu/chunked/kernel/gradients.h"

namespace lck::LCK_ISA {

namespace {

template <typename U, typename T>
const ChunkedKernels kChunked = {
    [](const ChunkedParams& p, const ChunkedTask& task, const PackedTiles& packed, void* scratch) {
      (task.chunk >= 0 ? chunked_extra<U, T> : chunked_positions<U, T>)(p, task, packed, scratch);
    },
    chunk_gradients<U, T>,
    merge_chunk_gradients<U, T>,
    ChunkParts<U>::bytes,
    [](const ChunkedParams& p) {
      Arena arena{nullptr};
      ForwardScratch<U>::of(&arena, p.sequence);
      arena.take<AccOf<U>>(kQueryTileRows * padded_columns<U>(p.sequence.head_dim_v));
      return arena.used;
    },
    [](const ChunkedParams& p) {
      Arena arena{nullptr};
      ChunkScratch<U>::of(&arena, p);
      return arena.used;
    },
    [](const ChunkedParams& p) {
      const int64_t longest = larger_of(p.sequence.head_dim, p.sequence.head_dim_v);
      return kQueryTileRows * padded_columns<U>(longest) * static_cast<int64_t>(sizeof(AccOf<U>));
    },
};

}  // namespace

const ChunkedKernels& chunked_kernels(DType dtype) {
  return for_units_of(dtype,
                      []<typename U, typename T>() -> const ChunkedKernels& { return kChunked<U, T>; });
}

}  // namespace lck::LCK_ISA
