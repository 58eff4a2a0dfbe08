// The gradient of rel_bias in CUDA: sums of score gradients along the diagonals of tiles, no atomics.
#pragma once

#include "cuda/attention/backward.cuh"

namespace lck {

// Shared memory after the backward's tiles: score gradients, in rows whose diagonals use all banks.
template <int kDim>
struct BiasShape {
  using Tiles = BackwardShape<kDim>;
  static constexpr int kRowBytes = (Tiles::kSteps + 2) * 4;
  static constexpr int kDiagonals = Tiles::kRows + Tiles::kSteps - 1;
  static constexpr int kSmemBytes = Tiles::kSmemBytes + Tiles::kRows * kRowBytes;
  static_assert(kDiagonals <= Tiles::kThreads);
};

// Grid: batch > heads > strips, the last fastest; over every num_strips'th tile of queries, and for each over
// the tiles of keys that it sees. A thread sums one diagonal of a tile; sums for the table's ends, to which
// columns are clamped, are in registers until the end. dbias: (batch, num_heads, num_strips, bias_len), zero
// before.
template <typename T, int kDim>
__global__ void __launch_bounds__(BackwardShape<kDim>::kThreads)
    attention_bias_gradient(const __grid_constant__ GpuAttentionParams a, const int64_t tiles,
                            const int64_t strips) {
  using Shape = BackwardShape<kDim>;
  using Bias = BiasShape<kDim>;
  const AttentionParams& p = a.p;
  const int64_t strip = blockIdx.x % strips, head = blockIdx.x / strips % p.num_heads;
  const int64_t batch = blockIdx.x / strips / p.num_heads;
  float* dbias = static_cast<float*>(p.dbias) + int64_t{blockIdx.x} * p.bias_len;
  const BackwardTiles<Shape> smem{ptx::smem_address(ptx::dynamic_smem())};
  const uint32_t sums = smem.base + Shape::kSmemBytes;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16, diagonal = threadIdx.x;
  float low = 0, high = 0;
  for (int64_t slot = strip; slot < tiles; slot += strips) {
    const SequenceTile place = locate(a.layout, a.layout.cu_seqlens_q, p.seqlen_q, batch, slot, Shape::kRows);
    const Sequence sequence = sequence_at(a.layout, p.seqlen_q, p.seqlen_k, p.window.chunk, place.sequence);
    if (place.first >= sequence.q_len) continue;
    const GradientRule rule = GradientRule::of(a, sequence, head);
    const auto add_diagonals = [&](const SmemTile<kDim>&, const auto& ds, const auto& tile) {
#pragma unroll
      for (int j = 0; j < Shape::kSteps / 8; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t at =
              sums + (warp_row + 8 * half + lane / 4) * Bias::kRowBytes + (8 * j + 2 * (lane % 4)) * 4;
          ptx::store_shared(at, ds[0][j][2 * half]);
          ptx::store_shared(at + 4, ds[0][j][2 * half + 1]);
        }
      }
      __syncthreads();                                  // all rows are there
      const int ahead = diagonal - (Shape::kRows - 1);  // key of the tile less query of the tile
      float sum = 0;
      for (int row = static_cast<int>(larger(0, -ahead));
           row < smaller(Shape::kRows, Shape::kSteps - ahead) && diagonal < Bias::kDiagonals; ++row) {
        sum += ptx::load_shared_float(sums + row * Bias::kRowBytes + (row + ahead) * 4);
      }
      const int64_t column = tile.keys.first + ahead - (place.first + sequence.offset) + p.bias_center;
      if (diagonal >= Bias::kDiagonals) return;
      if (column <= 0) {
        low += sum;
      } else if (column >= p.bias_len - 1) {
        high += sum;
      } else {
        dbias[column] += sum;
      }
    };
    for_each_key_tile<T, true, true>(a, rule, sequence, place.first, smem, add_diagonals);
  }
  ptx::store_shared(sums + 8 * threadIdx.x, low);
  ptx::store_shared(sums + 8 * threadIdx.x + 4, high);
  __syncthreads();
  if (threadIdx.x) return;
  for (int t = 0; t < Shape::kThreads; ++t) {
    dbias[0] += ptx::load_shared_float(sums + 8 * t);
    dbias[p.bias_len - 1] += ptx::load_shared_float(sums + 8 * t + 4);
  }
}

}  // namespace lck
