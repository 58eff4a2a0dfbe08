// Selects the attention kernels of a problem and their grids; `launch` is as in cuda/overlap/run.h.
#pragma once

#include "cuda/attention/backward.cuh"
#include "cuda/attention/bias.cuh"
#include "cuda/attention/delta.cuh"
#include "cuda/attention/forward.cuh"

namespace lck {

inline bool is_full(const GpuAttentionParams& a) {
  const AttentionParams& p = a.p;
  const bool score = p.softcap != 0 || p.rel_bias || !(static_cast<float>(p.softmax_scale) > 0);
  return score || p.kv_mask || p.dropout || p.window.sink_tokens;
}

template <typename T, int kDim, bool kFull>
struct AttentionRun {
  template <typename Launch>
  static void forward(const GpuAttentionParams& a, const Launch& launch) {
    using Shape = WindowedShape<kDim, kFull>;
    const int64_t tiles = num_tiles(a.layout, a.p.seqlen_q, Shape::kQueries);
    launch(attention_forward<T, kDim, kFull>, a.p.batch * a.p.num_heads * tiles, Shape::kThreads,
           Shape::kSmemBytes, a, tiles);
  }

  // delta, dq, dk and dv; the strips of dbias if it is not null.
  template <typename Launch>
  static void backward(const GpuAttentionParams& a, const Launch& launch) {
    using Shape = QueryGradientShape<kDim, kFull>;
    constexpr int64_t kDeltaRows = kDeltaThreads / kDeltaLanes;
    const int64_t rows = a.p.batch * a.p.seqlen_q * a.p.num_heads;
    launch(attention_delta<T>, (rows + kDeltaRows - 1) / kDeltaRows, kDeltaThreads, 0, a.p);
    const int64_t q_tiles = num_tiles(a.layout, a.p.seqlen_q, Shape::kRows);
    launch(attention_backward_q<T, kDim, kFull>, a.p.batch * a.p.num_heads * q_tiles, Shape::kThreads,
           Shape::kSmemBytes, a, q_tiles);
    if constexpr (kDim <= 128) {
      key_gradients<KeyGradients::kBoth>(a, launch);
    } else {
      key_gradients<KeyGradients::kKeys>(a, launch);
      key_gradients<KeyGradients::kValues>(a, launch);
    }
    if constexpr (kFull) {
      const int64_t strips = bias_strips(a);
      if (a.p.dbias) {
        launch(attention_bias_gradient<T, kDim>, a.p.batch * a.p.num_heads * strips,
               BiasShape<kDim>::Tiles::kThreads, BiasShape<kDim>::kSmemBytes, a, q_tiles, strips);
      }
    }
  }

 private:
  template <KeyGradients kWhich, typename Launch>
  static void key_gradients(const GpuAttentionParams& a, const Launch& launch) {
    using Shape = KeyGradientShape<kDim, kFull>;
    const int64_t tiles = num_tiles(a.layout, a.p.seqlen_k, Shape::kRows);
    launch(attention_backward_kv<T, kDim, kFull, kWhich>, a.p.batch * a.p.num_kv_heads * tiles,
           Shape::kThreads, Shape::kSmemBytes + sizeof(KeyBlock<T>), a, tiles);
  }
};

// run(AttentionRun<T, kDim, kFull>{}) with the least kDim not below either head dim.
template <typename T, typename Run>
void with_head_dim(const GpuAttentionParams& a, const Run& run) {
  const auto with_dim = [&]<int kDim>() {
    is_full(a) ? run(AttentionRun<T, kDim, true>{}) : run(AttentionRun<T, kDim, false>{});
  };
  const int64_t dim = larger(a.p.head_dim, a.p.head_dim_v);
  if (dim <= 32) return with_dim.template operator()<32>();
  if (dim <= 64) return with_dim.template operator()<64>();
  if (dim <= 96) return with_dim.template operator()<96>();
  if (dim <= 128) return with_dim.template operator()<128>();
  if (dim <= 192) return with_dim.template operator()<192>();
  return with_dim.template operator()<256>();
}

template <typename Run>
void with_attention_run(DType dtype, const GpuAttentionParams& a, const Run& run) {
  dtype == DType::kFloat16 ? with_head_dim<__half>(a, run) : with_head_dim<__nv_bfloat16>(a, run);
}

}  // namespace lck
