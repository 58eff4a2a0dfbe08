// Selects the kernels of a chunked attention and their grids; `launch` is as in cuda/overlap/run.h.
#pragma once

#include "cuda/attention/forward.cuh"
#include "cuda/chunked/chunked.cuh"

namespace lck {

template <typename T, int kDim>
struct ChunkedRun {
  // out, and extra.out if there are extra tokens.
  template <typename Launch>
  static void forward(const GpuChunkedParams& a, const Launch& launch) {
    attend<false, false>(a, launch);
    if (a.c.num_extra) attend<true, false>(a, launch);
  }

  // The tables, dq, dk and dv of both; those of extra queries only if they have a gradient.
  template <typename Launch>
  static void backward(const GpuChunkedParams& a, const Launch& launch) {
    attend<false, true>(a, launch);
    if (a.c.extra_queries) attend<true, true>(a, launch);
    gradients<false>(a, true, launch);
    if (a.c.num_extra) gradients<true>(a, a.c.extra_queries, launch);
  }

 private:
  static int64_t tiles(const GpuChunkedParams& a, bool extra, int64_t rows) {
    const auto of = [rows](int64_t count) { return (count + rows - 1) / rows; };
    return extra ? a.c.num_chunks * of(a.c.num_extra) : of(a.c.sequence.seqlen_q);
  }

  template <bool kExtra, bool kTables, typename Launch>
  static void attend(const GpuChunkedParams& a, const Launch& launch) {
    using Shape = ForwardShape<kDim>;
    const int64_t count = tiles(a, kExtra, Shape::kQueries);
    launch(chunked_forward<T, kDim, kExtra, kTables>, a.c.sequence.num_heads * count, Shape::kThreads,
           Shape::kSmemBytes, a, count);
  }

  template <bool kExtra, typename Launch>
  static void gradients(const GpuChunkedParams& a, bool queries, const Launch& launch) {
    using Shape = BackwardShape<kDim>;
    const int64_t count = tiles(a, kExtra, Shape::kRows);
    if (queries) {
      launch(chunked_backward_q<T, kDim, kExtra>, a.c.sequence.num_heads * count, Shape::kThreads,
             Shape::kSmemBytes, a, count);
    }
    launch(chunked_backward_kv<T, kDim, kExtra>, a.c.sequence.num_kv_heads * count, Shape::kThreads,
           Shape::kSmemBytes, a, count);
  }
};

// run(ChunkedRun<T, kDim>{}) with the least kDim not below either head dim.
template <typename T, typename Run>
void with_chunked_head_dim(const GpuChunkedParams& a, const Run& run) {
  larger(a.c.sequence.head_dim, a.c.sequence.head_dim_v) <= 64 ? run(ChunkedRun<T, 64>{})
                                                               : run(ChunkedRun<T, 128>{});
}

template <typename Run>
void with_chunked_run(DType dtype, const GpuChunkedParams& a, const Run& run) {
  dtype == DType::kFloat16 ? with_chunked_head_dim<__half>(a, run)
                           : with_chunked_head_dim<__nv_bfloat16>(a, run);
}

}  // namespace lck
