// The backward of windowed attention in CUDA: dq by tiles of queries, dk and dv by tiles of keys. Both
// recompute the probabilities, so that each gradient has one writer: deterministic, no atomics. Source of the
// formulas: FlashAttention-2 (Dao, 2023).
#pragma once

#include "cuda/attention/gradient_steps.cuh"

namespace lck {

// use(k_tile, ds, tile) for each tile of keys that the queries of a sequence's tile see, as in over_keys.
template <typename T, bool kFull, bool kAfterCap, typename Shape, typename Use>
__device__ __forceinline__ void for_each_key_tile(const GpuAttentionParams& a, const GradientRule& rule,
                                                  const Sequence& sequence, int first,
                                                  const BackwardTiles<Shape>& smem, const Use& use) {
  const AttentionParams& p = a.p;
  const int64_t head = rule.head, q_row = sequence.q_begin + first;
  const int num_queries = static_cast<int>(sequence.q_len) - first;
  const int last = first + static_cast<int>(smaller(num_queries, Shape::kRows)) - 1;
  const KeyTiles keys = key_tiles<kFull>(a, sequence, first, last, Shape::kSteps);
  const int64_t row_at = query_place(p, sequence.batch, q_row, head);
  const float *lse = static_cast<const float*>(p.lse) + row_at,
              *delta = static_cast<float*>(p.delta) + row_at;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * Shape::kM;
  // A query that sees no key is not read.
  const auto reads = [&](int row) { return row < num_queries && is_finite(lse[row]); };
  copy_rows<Shape::kRows, Shape::kThreads>(smem.own(0), row_of<T>(p.q, sequence.batch, q_row, head),
                                           p.q.row_stride, static_cast<int>(p.head_dim), reads);
  copy_rows<Shape::kRows, Shape::kThreads>(smem.own(1), row_of<T>(p.dout, sequence.batch, q_row, head),
                                           p.dout.row_stride, static_cast<int>(p.head_dim_v), reads);
  const auto bounds = [&](int i, int half) {
    return load_row_keys(smem.row(warp_row + 16 * i + 8 * half + lane / 4));
  };
  if (const int row = threadIdx.x; row < Shape::kRows) {
    store_row_keys(smem.row(row), row_keys(p.window, sequence, first + row));
  }
  QueriesByKeys<Shape::kM, kFull, decltype(bounds)> tile{.bounds = bounds};
  tile.first_query = first + warp_row + lane / 4;
  tile.kv_mask = kFull && p.kv_mask ? p.kv_mask + sequence.batch * p.seqlen_k + sequence.k_begin : nullptr;
#pragma unroll
  for (int i = 0; i < Shape::kM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + 16 * i + 8 * half + lane / 4;
      const OneQuery one = row < num_queries ? OneQuery::of(lse[row], delta[row]) : OneQuery{INFINITY, 0};
      tile.row[i].lse[half] = one.lse, tile.row[i].delta[half] = one.delta;
    }
  }
  const int64_t kv_head = head / (p.num_heads / p.num_kv_heads);
  over_keys<T, kAfterCap>(
      p, rule, smem, KeyRows<T>::of(p, sequence.batch, sequence.k_begin, kv_head), tile, keys.count,
      [&](int n) { return key_tile<kFull>(keys, n, Shape::kSteps); }, use);
}

// With 32 instead of 16 rows a warp, half as many bytes are read from shared memory, if the sums fit in
// registers.
template <int kDim, bool kFull>
using QueryGradientShape = BackwardShape<kDim, kDim <= 128 && !kFull ? 2 : 1>;
template <int kDim, bool kFull>
using KeyGradientShape = BackwardShape<kDim, kDim == 64 && !kFull ? 2 : 1>;

// Grid: batch > kv heads > tiles of queries > heads of the group, the last fastest; over the tiles of keys
// that one of the queries sees.
template <typename T, int kDim, bool kFull>
__global__ void __launch_bounds__(QueryGradientShape<kDim, kFull>::kThreads)
    attention_backward_q(const __grid_constant__ GpuAttentionParams a, const int64_t tiles) {
  using Shape = QueryGradientShape<kDim, kFull>;
  constexpr int kM = Shape::kM;
  const AttentionParams& p = a.p;
  const QueryBlock at = query_block(a, tiles, Shape::kRows);
  if (at.first >= at.sequence.q_len) return;
  const BackwardTiles<Shape> smem{ptx::smem_address(ptx::dynamic_smem())};
  const GradientRule rule = GradientRule::of(a, at.sequence, at.head);
  float dq[kM][kDim / 8][4] = {};
  for_each_key_tile<T, kFull, false>(a, rule, at.sequence, at.first, smem,
                                     [&](const SmemTile<kDim>& k_tile, const auto& ds, const auto&) {
                                       add_product<T, kM, Shape::kSteps / 8, kDim>(dq, ds, k_tile, 0);
                                     });
  float factor[kM][2];
  fill(factor, rule.score.scale);
  store_warp_rows(dq, factor, smem.own(0),
                  row_of<T>(p.dq, at.sequence.batch, at.sequence.q_begin + at.first, at.head),
                  p.dq.row_stride, p.head_dim, static_cast<int>(at.sequence.q_len) - at.first);
}

// Values of the block in shared memory, since the loop over queries has no registers for them.
template <typename T>
struct KeyBlock {
  Sequence sequence;
  QueryTiles queries;
  QueryRows<T> rows;  // of the first head of the group
  T *dk, *dv;
  int64_t first_head;
  int num_keys;
};

// Grid: batch > kv heads > tiles of keys, the last fastest; over the heads of the group, and for each over
// the tiles of queries that see one of the keys.
template <typename T, int kDim, bool kFull, KeyGradients kWhich>
__global__ void __launch_bounds__(KeyGradientShape<kDim, kFull>::kThreads)
    attention_backward_kv(const __grid_constant__ GpuAttentionParams a, const int64_t tiles) {
  using Shape = KeyGradientShape<kDim, kFull>;
  constexpr int kM = Shape::kM;
  constexpr bool kWithKeys = kWhich != KeyGradients::kValues, kWithValues = kWhich != KeyGradients::kKeys;
  const AttentionParams& p = a.p;
  const int64_t group = p.num_heads / p.num_kv_heads, slot = blockIdx.x;
  const int64_t kv_head = slot / tiles % p.num_kv_heads, batch = slot / tiles / p.num_kv_heads;
  const SequenceTile place =
      locate(a.layout, a.layout.cu_seqlens_k, p.seqlen_k, batch, slot % tiles, Shape::kRows);
  const Sequence sequence = sequence_at(a.layout, p.seqlen_q, p.seqlen_k, p.window.chunk, place.sequence);
  const int num_keys = static_cast<int>(sequence.bounds.num_keys) - place.first;
  if (num_keys <= 0) return;
  const QueryTiles queries = query_tiles(a, sequence, place.first, Shape::kRows, Shape::kSteps);

  const BackwardTiles<Shape> smem{ptx::smem_address(ptx::dynamic_smem())};
  auto& block = *reinterpret_cast<KeyBlock<T>*>(ptx::dynamic_smem() + Shape::kSmemBytes);
  const int64_t k_row = sequence.k_begin + place.first;
  if (threadIdx.x == 0) {
    const int64_t head = kv_head * group, q_row = sequence.q_begin + queries.begin;
    const int64_t at = query_place(p, sequence.batch, q_row, head);
    const QueryRows<T> rows{row_of<T>(p.q, sequence.batch, q_row, head),
                            row_of<T>(p.dout, sequence.batch, q_row, head),
                            p.q.row_stride,
                            p.dout.row_stride,
                            static_cast<const float*>(p.lse) + at,
                            static_cast<const float*>(p.delta) + at};
    block = {sequence,
             queries,
             rows,
             row_of<T>(p.dk, sequence.batch, k_row, kv_head),
             row_of<T>(p.dv, sequence.batch, k_row, kv_head),
             head,
             num_keys};
  }
  const uint8_t* kv_mask = p.kv_mask ? p.kv_mask + sequence.batch * p.seqlen_k + k_row : nullptr;
  const auto valid = [&](int row) { return queries.has(place.first + row) && (!kv_mask || kv_mask[row]); };
  copy_rows<Shape::kRows, Shape::kThreads>(smem.own(0), row_of<T>(p.k, sequence.batch, k_row, kv_head),
                                           p.k.row_stride, static_cast<int>(p.head_dim), valid);
  copy_rows<Shape::kRows, Shape::kThreads>(smem.own(1), row_of<T>(p.v, sequence.batch, k_row, kv_head),
                                           p.v.row_stride, static_cast<int>(p.head_dim_v), valid);
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * Shape::kM;
  if (const int row = threadIdx.x; row < Shape::kRows) {
    const bool some = valid(row);
    store_row_queries(smem.row(row),
                      some ? row_queries(p.window, sequence, place.first + row) : RowQueries{0, 0});
  }
  const auto bounds = [&](int i, int half) {
    return load_row_queries(smem.row(warp_row + 16 * i + 8 * half + lane / 4));
  };
  KeysByQueries<kM, decltype(bounds)> tile{.first_key = place.first + warp_row + lane / 4, .bounds = bounds};
  __syncthreads();  // block is there
  const auto rows_of = [&](int n) {
    QueryRows<T> rows = block.rows;
    rows.q += n * p.q.head_stride, rows.dout += n * p.dout.head_stride;
    rows.lse += n * p.seqlen_q, rows.delta += n * p.seqlen_q;
    return rows;
  };
  float dk[kM][kDim / 8][4] = {}, dv[kM][kDim / 8][4] = {};
  over_queries<T, kFull, kWhich>(
      p, smem, tile, block.queries, static_cast<int>(p.num_heads / p.num_kv_heads), rows_of,
      [&](int n) { return GradientRule::of(a, block.sequence, block.first_head + n); }, dk, dv);
  if (kWithKeys) {
    float factor[kM][2];
    fill(factor, static_cast<float>(p.softmax_scale));
    store_warp_rows(dk, factor, smem.own(0), block.dk, p.dk.row_stride, p.head_dim, block.num_keys);
  }
  if (kWithValues) {
    float factor[kM][2];
    fill(factor, 1.0f);
    store_warp_rows(dv, factor, smem.own(1), block.dv, p.dv.row_stride, p.head_dim_v, block.num_keys);
  }
}

}  // namespace lck
