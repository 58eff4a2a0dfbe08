// The forward of windowed attention in CUDA: online softmax over the tiles of keys that a tile of queries
// sees. Source: FlashAttention-2 (Dao, 2023). See csrc/cuda/README.md for tiles, pipeline and bounds.
#pragma once

#include "cuda/attention/attend.cuh"

namespace lck {

// Values of the block in shared memory, since the loop over keys has no registers for them.
struct ForwardBlock {
  KeyTiles keys;
  int num_queries;
  float sink;  // the head's, times log2(e)
  float* lse;
  void* out;
};

// A warp has 16 kM queries. With 32, half as many bytes are read from shared memory; they fit in registers if
// rows are short.
template <int kDim, int kM_ = 1>
struct ForwardShape {
  static constexpr int kM = kM_;
  static constexpr int kWarps = 8 / kM;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kQueries = 16 * kM * kWarps;
  static constexpr int kKeys = kDim <= 192 ? 64 : 32;
  static constexpr int kTileBytes = SmemTile<kDim>::bytes(kQueries + 2 * kKeys);
  static constexpr int kRowBytes = kQueries * kRowKeysBytes;
  static constexpr int kSmemBytes = kTileBytes + kRowBytes + sizeof(ForwardBlock);
  static_assert(kQueries <= kThreads);  // a thread computes the visible keys of one row
};

template <int kDim, bool kFull>
using WindowedShape = ForwardShape<kDim, kDim <= (kFull ? 64 : 128) ? 2 : 1>;

// Grid: batch > kv heads > tiles of queries > heads of the group, the last fastest. Loops: masked
// tiles of keys on the left, tiles that every row sees whole, masked tiles on the right, tiles of sink
// tokens. kFull: with sink tokens, kv_mask, softcap, bias, dropout or a scale not above 0; without it they
// have no cost.
template <typename T, int kDim, bool kFull>
__global__ void __launch_bounds__(WindowedShape<kDim, kFull>::kThreads)
    attention_forward(const __grid_constant__ GpuAttentionParams a, const int64_t tiles) {
  using Shape = WindowedShape<kDim, kFull>;
  constexpr int kM = Shape::kM, kN = Shape::kKeys / 8;
  const AttentionParams& p = a.p;
  const QueryBlock at = query_block(a, tiles, Shape::kQueries);
  const Sequence& sequence = at.sequence;
  const int64_t head = at.head;
  const int num_queries = static_cast<int>(sequence.q_len) - at.first;
  if (num_queries <= 0) return;
  const auto smem = AttendTiles<kDim>::of(Shape::kQueries, Shape::kKeys);
  const uint8_t* kv_mask =
      kFull && p.kv_mask ? p.kv_mask + sequence.batch * p.seqlen_k + sequence.k_begin : nullptr;
  copy_rows<Shape::kQueries, Shape::kThreads>(
      smem.q, row_of<T>(p.q, sequence.batch, sequence.q_begin + at.first, head), p.q.row_stride,
      static_cast<int>(p.head_dim), [&](int row) { return row < num_queries; });
  ptx::cp_async_commit();

  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * kM;
  const uint32_t rows = ptx::smem_address(ptx::dynamic_smem()) + Shape::kTileBytes;
  auto& block = *reinterpret_cast<ForwardBlock*>(ptx::dynamic_smem() + Shape::kTileBytes + Shape::kRowBytes);
  if (threadIdx.x == 0) {
    const int last = at.first + static_cast<int>(smaller(num_queries, Shape::kQueries)) - 1;
    const int64_t row = sequence.q_begin + at.first;
    block = {key_tiles<kFull>(a, sequence, at.first, last, Shape::kKeys), num_queries,
             p.sink_logits ? static_cast<const float*>(p.sink_logits)[head] * kLog2E : -INFINITY,
             static_cast<float*>(p.lse) + query_place(p, sequence.batch, row, head),
             row_of<T>(p.out, sequence.batch, row, head)};
  }
  if (const int row = threadIdx.x; row < Shape::kQueries) {
    store_row_keys(rows + row * kRowKeysBytes, row_keys(p.window, sequence, at.first + row));
  }
  __syncthreads();  // block and rows are there
  const ScoreRule rule = ScoreRule::of(p, head, sequence.offset);
  const bool only_scales = !kFull || rule.only_scales();
  const DropoutRule dropout = kFull ? DropoutRule::of(a, sequence, head) : DropoutRule{};
  // Key and query of element e of fragment (i, j).
  const auto key_of = [&](const KeyTile& tile, int j, int e) {
    return tile.first + 8 * j + 2 * (lane % 4) + e % 2;
  };
  const auto query_of = [&](int i, int e) { return at.first + warp_row + 16 * i + 8 * (e / 2) + lane / 4; };
  const auto to_scores = [&](float (&s)[kM][kN][4], const KeyTile& tile) {
    if (!only_scales) {
#pragma unroll
      for (int i = 0; i < kM; ++i) {
#pragma unroll
        for (int j = 0; j < kN; ++j) {
          float slope[4];
          rule.apply(s[i][j], slope, [&](int e) { return key_of(tile, j, e) - query_of(i, e); });
        }
      }
    }
    if (!tile.masked) return;
#pragma unroll
    for (int i = 0; i < kM; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const RowKeys row = load_row_keys(rows + (warp_row + 16 * i + 8 * half + lane / 4) * kRowKeysBytes);
#pragma unroll
        for (int j = 0; j < kN; ++j) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            if (!sees<kFull>(row, tile, kv_mask, key_of(tile, j, e))) s[i][j][e] = -INFINITY;
          }
        }
      }
    }
  };
  const auto drop = [&]([[maybe_unused]] float (&s)[kM][kN][4], [[maybe_unused]] const KeyTile& tile) {
    if constexpr (kFull) {
      if (!p.dropout) return;
#pragma unroll
      for (int i = 0; i < kM; ++i) {
#pragma unroll
        for (int j = 0; j < kN; ++j) {
          const Kept kept = kept_keys(dropout, key_of(tile, j, 0),
                                      {query_of(i, 0) + sequence.offset, query_of(i, 2) + sequence.offset});
#pragma unroll
          for (int e = 0; e < 4; ++e) s[i][j][e] = kept.at[e] ? s[i][j][e] : 0.0f;
        }
      }
    }
  };
  float out[kM][kDim / 8][4] = {};
  auto state = Softmax<kM>::none();
  attend_keys<Shape, T, kM, kDim>(
      state, out, smem, KeyRows<T>::of(p, sequence.batch, sequence.k_begin, at.kv_head), block.keys.count,
      [&](int n) { return key_tile<kFull>(block.keys, n, Shape::kKeys); },
      [&](int key) { return !kv_mask || kv_mask[key]; }, only_scales ? rule.scale * kLog2E : kLog2E,
      to_scores, drop);

  float factor[kM][2];
#pragma unroll
  for (int i = 0; i < kM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float most = fmaxf(state.base[i][half], block.sink), base = most == -INFINITY ? 0.0f : most;
      const float decay = ptx::exp2_approx(state.base[i][half] - base);
      const float sum = row_sum(state.sum[i][half]) * decay + ptx::exp2_approx(block.sink - base);
      factor[i][half] = sum == 0 ? 0.0f : decay * static_cast<float>(p.keep_scale) / sum;
      const int row_of_tile = warp_row + 16 * i + 8 * half + lane / 4;
      if (lane % 4 == 0 && row_of_tile < block.num_queries) {
        block.lse[row_of_tile] = sum == 0 ? -INFINITY : (most + log2f(sum)) * kLn2;
      }
    }
  }
  store_warp_rows(out, factor, smem.q, static_cast<T*>(block.out), p.out.row_stride, p.head_dim_v,
                  block.num_queries);
}

}  // namespace lck
