// Selects the kernel of an overlap problem and its grid. `launch(kernel, blocks, threads, smem_bytes,
// args...)` starts one: on a GPU in overlap.cu, on the host in tests.
#pragma once

#include "cuda/overlap/overlap.cuh"

namespace lck {

// The largest power of two, up to 16, that divides the bytes and the alignment of every row of both tensors.
inline int64_t row_alignment(const OverlapParams& p, int64_t element) {
  const int64_t sizes = p.dim | p.chunk_stride | p.column_stride | p.position_stride;
  const int64_t bits =
      reinterpret_cast<int64_t>(p.chunks) | reinterpret_cast<int64_t>(p.sequence) | sizes * element | 16;
  return bits & -bits;
}

template <int kBytes>
RowCut cut_rows(const OverlapParams& p, int64_t element) {
  const int64_t vecs = (p.dim * element + kBytes - 1) / kBytes, wanted = (vecs + kVecs - 1) / kVecs;
  RowCut cut{1, 1};
  while (cut.lanes < kOverlapThreads && cut.lanes < wanted) cut.lanes *= 2;
  cut.blocks = larger(1, (wanted + cut.lanes - 1) / cut.lanes);
  return cut;
}

template <typename T, int kBytes>
struct OverlapRun {
  template <typename Launch>
  static void gather(const OverlapParams& p, const Launch& launch) {
    const RowCut cut = cut_rows<kBytes>(p, sizeof(T));
    const int64_t rows = kOverlapThreads / cut.lanes;
    launch(overlap_gather<T, kBytes>, (p.total_len + rows - 1) / rows * cut.blocks, kOverlapThreads, 0, p,
           cut);
  }
  template <typename Launch>
  static void scatter(const OverlapParams& p, const Launch& launch) {
    const RowCut cut = cut_rows<kBytes>(p, sizeof(T));
    const int64_t rows = kOverlapThreads / cut.lanes, blocks = (p.chunk_len + rows - 1) / rows;
    launch(overlap_scatter<T, kBytes>, p.num_segments * blocks * cut.blocks, kOverlapThreads, 0, p, cut,
           blocks * rows);
  }
  template <typename Launch>
  static void weight_grad(const OverlapParams& p, const Launch& launch) {
    constexpr int64_t kWarps = kOverlapThreads / 32;
    launch(overlap_weight_grad<T, kBytes>, (p.total_len + kWarps - 1) / kWarps, kOverlapThreads, 0, p);
  }
};

// run(OverlapRun<T, kBytes>{}) for the dtype and the widest vectors that fit: 16 bytes, 4, or an element.
template <typename T, typename Run>
void with_overlap_vectors(const OverlapParams& p, const Run& run) {
  constexpr int kElement = sizeof(T);
  const int64_t alignment = row_alignment(p, kElement);
  if (alignment >= 16) {
    run(OverlapRun<T, 16>{});
  } else if (kElement < 4 && alignment >= 4) {
    run(OverlapRun < T, kElement<4 ? 4 : kElement>{});
  } else {
    run(OverlapRun<T, kElement>{});
  }
}

template <typename Run>
void with_overlap_run(DType dtype, const OverlapParams& p, const Run& run) {
  with_elements(dtype, [&]<typename T>() { with_overlap_vectors<T>(p, run); });
}

}  // namespace lck
