// The backward of windowed attention in CUDA: dq by tiles of queries, dk and dv by tiles of keys. Both
// compute the probabilities anew, so that each gradient has one writer: deterministic, no atomics. Source of
// the formulas: FlashAttention-2 (Dao, 2023).
#pragma once

#include "cuda/gradient_steps.cuh"

namespace lck {

// use(k_tile, ds, tile) for each tile of keys that the queries of a text's tile see, as in over_keys.
template <typename T, int kDim, bool kFull, bool kBehindCap, typename Use>
__device__ __forceinline__ void for_each_key_tile(const GpuAttentionParams& a, const GradientRule& rule,
                                                  const Text& text, int first,
                                                  const BackwardTiles<kDim>& smem, const Use& use) {
  using Shape = BackwardShape<kDim>;
  const AttentionParams& p = a.p;
  const int64_t head = rule.head, q_row = text.q_begin + first;
  const int num_queries = static_cast<int>(text.q_len) - first;
  const int last = first + static_cast<int>(smaller(num_queries, Shape::kRows)) - 1;
  const KeyTiles keys = key_tiles<kFull>(a, text, first, last, Shape::kSteps);
  const int64_t row_at = (text.batch * p.num_heads + head) * p.seqlen_q + q_row;
  const float *lse = static_cast<const float*>(p.lse) + row_at,
              *delta = static_cast<float*>(p.delta) + row_at;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
  // A query that sees nothing is not read.
  const auto reads = [&](int row) { return row < num_queries && is_finite(lse[row]); };
  copy_rows<Shape::kRows, Shape::kThreads>(smem.own(0), row_of<T>(p.q, text.batch, q_row, head),
                                           p.q.row_stride, static_cast<int>(p.head_dim), reads);
  copy_rows<Shape::kRows, Shape::kThreads>(smem.own(1), row_of<T>(p.dout, text.batch, q_row, head),
                                           p.dout.row_stride, static_cast<int>(p.head_dim_v), reads);
  QueriesByKeys<kFull> tile;
  tile.first_query = first + warp_row + lane / 4;
  tile.kv_mask = kFull && p.kv_mask ? p.kv_mask + text.batch * p.seqlen_k + text.k_begin : nullptr;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + 8 * half + lane / 4;
    tile.seen_keys[half] = row_keys(p.window, text, first + row);
    const OneQuery one = row < num_queries ? OneQuery::of(lse[row], delta[row]) : OneQuery{INFINITY, 0};
    tile.row.lse[half] = one.lse, tile.row.delta[half] = one.delta;
  }
  const int64_t kv_head = head / (p.num_heads / p.num_kv_heads);
  over_keys<T, kDim, kFull, kBehindCap>(
      p, rule, smem, KeyRows<T>::of(p, text.batch, text.k_begin, kv_head), tile, keys.count,
      [&](int n) { return key_tile<kFull>(keys, n, Shape::kSteps); }, use);
}

// Grid: batch > kv heads > tiles of queries > heads of the group, the last fastest; over the tiles of keys
// that one of the queries sees.
template <typename T, int kDim, bool kFull>
__global__ void __launch_bounds__(BackwardShape<kDim>::kThreads)
    attention_backward_q(const __grid_constant__ GpuAttentionParams a, const int64_t tiles) {
  using Shape = BackwardShape<kDim>;
  const AttentionParams& p = a.p;
  const QueryBlock at = query_block(a, tiles, Shape::kRows);
  if (at.first >= at.text.q_len) return;
  const BackwardTiles<kDim> smem{ptx::smem_address(ptx::dynamic_smem())};
  const GradientRule rule = GradientRule::of(a, at.text, at.head);
  float dq[1][kDim / 8][4] = {};
  for_each_key_tile<T, kDim, kFull, false>(a, rule, at.text, at.first, smem,
                                           [&](const SmemTile<kDim>& k_tile, const auto& ds, const auto&) {
                                             add_product<T, 1, Shape::kSteps / 8, kDim>(dq, ds, k_tile, 0);
                                           });
  const float factor[1][2] = {{rule.score.scale, rule.score.scale}};
  store_warp_rows(dq, factor, smem.own(0),
                  row_of<T>(p.dq, at.text.batch, at.text.q_begin + at.first, at.head), p.dq.row_stride,
                  p.head_dim, static_cast<int>(at.text.q_len) - at.first);
}

// Grid: batch > kv heads > tiles of keys, the last fastest; over the heads of the group, and for each over
// the tiles of queries that see one of the keys.
template <typename T, int kDim, bool kFull, KeyGradients kWhich>
__global__ void __launch_bounds__(BackwardShape<kDim>::kThreads)
    attention_backward_kv(const __grid_constant__ GpuAttentionParams a, const int64_t tiles) {
  using Shape = BackwardShape<kDim>;
  constexpr bool kWithKeys = kWhich != KeyGradients::kValues, kWithValues = kWhich != KeyGradients::kKeys;
  const AttentionParams& p = a.p;
  const int64_t group = p.num_heads / p.num_kv_heads, block = blockIdx.x;
  const int64_t kv_head = block / tiles % p.num_kv_heads, batch = block / tiles / p.num_kv_heads;
  const TextTile place =
      locate(a.layout, a.layout.cu_seqlens_k, p.seqlen_k, batch, block % tiles, Shape::kRows);
  const Text text = text_at(a.layout, p.seqlen_q, p.seqlen_k, p.window.chunk, place.text);
  const int num_keys = static_cast<int>(text.bounds.num_keys) - place.first;
  if (num_keys <= 0) return;
  const QueryTiles queries = query_tiles(a, text, place.first, Shape::kRows, Shape::kSteps);

  const BackwardTiles<kDim> smem{ptx::smem_address(ptx::dynamic_smem())};
  const int64_t k_row = text.k_begin + place.first;
  const uint8_t* kv_mask = p.kv_mask ? p.kv_mask + text.batch * p.seqlen_k + k_row : nullptr;
  const auto valid = [&](int row) { return queries.has(place.first + row) && (!kv_mask || kv_mask[row]); };
  copy_rows<Shape::kRows, Shape::kThreads>(smem.own(0), row_of<T>(p.k, text.batch, k_row, kv_head),
                                           p.k.row_stride, static_cast<int>(p.head_dim), valid);
  copy_rows<Shape::kRows, Shape::kThreads>(smem.own(1), row_of<T>(p.v, text.batch, k_row, kv_head),
                                           p.v.row_stride, static_cast<int>(p.head_dim_v), valid);
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
  KeysByQueries tile;
  tile.first_key = place.first + warp_row + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + 8 * half + lane / 4;
    tile.row[half] = valid(row) ? row_queries(p.window, text, place.first + row) : RowQueries{0, 0};
  }
  const auto head_of = [&](int n) { return kv_head * group + n; };
  const auto rows_of = [&](int n) {
    const int64_t head = head_of(n), q_row = text.q_begin + queries.begin;
    const int64_t at = (text.batch * p.num_heads + head) * p.seqlen_q + q_row;
    return QueryRows<T>{row_of<T>(p.q, text.batch, q_row, head),
                        row_of<T>(p.dout, text.batch, q_row, head),
                        p.q.row_stride,
                        p.dout.row_stride,
                        static_cast<const float*>(p.lse) + at,
                        static_cast<const float*>(p.delta) + at};
  };
  float dk[1][kDim / 8][4] = {}, dv[1][kDim / 8][4] = {};
  over_queries<T, kDim, kFull, kWhich>(
      p, smem, tile, queries, static_cast<int>(group), rows_of,
      [&](int n) { return GradientRule::of(a, text, head_of(n)); }, dk, dv);
  if (kWithKeys) {
    const auto scale = static_cast<float>(p.softmax_scale);
    const float factor[1][2] = {{scale, scale}};
    store_warp_rows(dk, factor, smem.own(0), row_of<T>(p.dk, text.batch, k_row, kv_head), p.dk.row_stride,
                    p.head_dim, num_keys);
  }
  if (kWithValues) {
    const float factor[1][2] = {{1, 1}};
    store_warp_rows(dv, factor, smem.own(1), row_of<T>(p.dv, text.batch, k_row, kv_head), p.dv.row_stride,
                    p.head_dim_v, num_keys);
  }
}

}  // namespace lck
