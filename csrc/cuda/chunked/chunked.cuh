// chunked_attention in CUDA: attention within each chunk, merged over chunks by merge weights.
//
// Rows are positions of the sequence, or with kExtra the extra tokens of a chunk. A tile of positions
// loops over the segments that overlap it, so no chunk is materialised and every gradient has one writer.
// The backward's tables are those of GpuChunkedParams.
#pragma once

#include "cuda/attention/attend.cuh"
#include "cuda/attention/gradient_steps.cuh"
#include "cuda/chunked/gpu_params.h"
#include "overlap_weights.h"

namespace lck {

// A tile's rows [first, first + num_rows) of the sequence or of a chunk's extra tokens, and the
// indices of segments to loop over; one index for extra tokens.
struct ChunkedTile {
  int64_t batch;
  int first, num_rows;
  Span segments;
};

// The rows [begin, end) of a tile that a segment (or extra tokens) of `chunk` covers; row r is column
// `column` + r.
struct TileSegment {
  int64_t chunk, column;
  int begin, end;

  __device__ __forceinline__ bool covers(int row) const { return row >= begin && row < end; }
};

__device__ __forceinline__ Segment segment_of(const ChunkedParams& c, int64_t n) {
  return inside(c.segments[n], c.num_chunks, c.chunk_len, c.sequence.seqlen_q);
}

// Tile `slot`, of `rows` rows.
template <bool kExtra>
__device__ __forceinline__ ChunkedTile chunked_tile(const GpuChunkedParams& a, int64_t slot, int rows) {
  const ChunkedParams& c = a.c;
  if (kExtra) {
    const int64_t tiles = (c.num_extra + rows - 1) / rows, first = slot % tiles * rows;
    return {
        slot / tiles, static_cast<int>(first), static_cast<int>(smaller(rows, c.num_extra - first)), {0, 1}};
  }
  const int64_t total = c.sequence.seqlen_q, first = slot * rows, last = smaller(first + rows, total) - 1;
  Span segments{c.num_segments, 0};
  for (int64_t tile = first / kTileLen; tile <= last / kTileLen; ++tile) {
    segments.begin = smaller(segments.begin, larger(a.tile_segments[2 * tile], 0));
    segments.end = larger(segments.end, smaller(a.tile_segments[2 * tile + 1], c.num_segments));
  }
  return {0, static_cast<int>(first), static_cast<int>(last - first + 1), segments};
}

template <bool kExtra>
__device__ __forceinline__ TileSegment segment_at(const ChunkedParams& c, const ChunkedTile& tile,
                                                  int64_t n) {
  if (kExtra) return {tile.batch, c.chunk_len + tile.first, 0, tile.num_rows};
  const Segment s = segment_of(c, n);
  const int64_t ahead = s.start - static_cast<int64_t>(tile.first);
  return {s.row, s.col - ahead, static_cast<int>(smaller(larger(ahead, 0), tile.num_rows)),
          static_cast<int>(smaller(larger(ahead + s.length, 0), tile.num_rows))};
}

// The normalized weight of a row in a segment's chunk; 0 if the segment does not cover it.
template <bool kExtra>
__device__ __forceinline__ float merge_weight(const ChunkedParams& c, const TileSegment& segment, int row) {
  if (!segment.covers(row)) return 0;
  return kExtra
             ? 1.0f
             : static_cast<const float*>(c.merge_weights)[segment.chunk * c.chunk_len + segment.column + row];
}

// First row of a chunk and head in the backward's tables.
__device__ __forceinline__ int64_t row_table(const ChunkedParams& c, int64_t chunk, int64_t head) {
  return (chunk * c.sequence.num_heads + head) * (c.chunk_len + c.num_extra);
}

// use(tokens, batch, first row, number of rows, first column) for each run of a chunk's rows: its segments,
// then its extra tokens.
template <typename Use>
__device__ __forceinline__ void for_each_run(const ChunkedParams& c, int64_t chunk, const Use& use) {
  const int64_t begin = larger(c.chunk_bounds[chunk], 0);
  const int64_t end = smaller(c.chunk_bounds[chunk + 1], c.num_segments);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t n = smaller(larger(c.chunk_segments[i], 0), c.num_segments - 1);
    const Segment s = segment_of(c, n);
    if (s.row == chunk && s.length > 0) use(c.sequence, int64_t{0}, s.start, s.length, int64_t{s.col});
  }
  if (c.num_extra) use(c.extra, chunk, 0, static_cast<int>(c.num_extra), c.chunk_len);
}

// Tile n of `count` keys, of which every row sees all.
__device__ __forceinline__ KeyTile run_tile(int n, int count, int keys_a_tile) {
  return {n * keys_a_tile, 0, count, (n + 1) * keys_a_tile > count, keys_a_tile};
}

// Grid: heads > tiles of rows, the last fastest; over the chunks that have a row of the tile, and for each
// over its keys. Writes out, or with kTables the tables of the backward.
template <typename T, int kDim, bool kExtra, bool kTables>
__global__ void __launch_bounds__(ForwardShape<kDim>::kThreads)
    chunked_forward(const __grid_constant__ GpuChunkedParams a, const int64_t tiles) {
  using Shape = ForwardShape<kDim>;
  constexpr int kN = Shape::kKeys / 8;
  const ChunkedParams& c = a.c;
  const AttentionParams &sequence = c.sequence, &own = kExtra ? c.extra : c.sequence;
  const int64_t head = blockIdx.x / tiles, kv_head = head / (sequence.num_heads / sequence.num_kv_heads);
  const ChunkedTile tile = chunked_tile<kExtra>(a, blockIdx.x % tiles, Shape::kQueries);
  const auto smem = AttendTiles<kDim>::of(Shape::kQueries, Shape::kKeys);
  copy_rows<Shape::kQueries, Shape::kThreads>(smem.q, row_of<T>(own.q, tile.batch, tile.first, head),
                                              own.q.row_stride, static_cast<int>(sequence.head_dim),
                                              [&](int row) { return row < tile.num_rows; });
  ptx::cp_async_commit();
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
  const float scale = static_cast<float>(sequence.softmax_scale) * kLog2E;
  float merged[1][kDim / 8][4] = {};
  for (int64_t n = tile.segments.begin; n < tile.segments.end; ++n) {
    const TileSegment segment = segment_at<kExtra>(c, tile, n);
    if (segment.begin >= segment.end) continue;
    float out[1][kDim / 8][4] = {};
    auto state = Softmax<1>::none();
    for_each_run(c, segment.chunk,
                 [&](const AttentionParams& tokens, int64_t batch, int first, int count, int64_t) {
                   const auto rows = KeyRows<T>::of(tokens, batch, first, kv_head);
                   const auto to_scores = [&](float (&s)[1][kN][4], const KeyTile& keys) {
                     for_each_element<1, kN>([&](int, int j, int e) {
                       const bool seen = !keys.masked || keys.first + 8 * j + 2 * (lane % 4) + e % 2 < count;
                       s[0][j][e] = seen ? s[0][j][e] * scale : -INFINITY;
                     });
                   };
                   attend_keys<Shape, T, 1, kDim>(
                       state, out, smem, rows, (count + Shape::kKeys - 1) / Shape::kKeys,
                       [&](int i) { return run_tile(i, count, Shape::kKeys); }, [](int) { return true; },
                       1.0f, to_scores, [](auto&, const KeyTile&) {});
                 });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + 8 * half + lane / 4;
      const float sum = row_sum(state.sum[0][half]), weight = merge_weight<kExtra>(c, segment, row);
      const float factor = 1 / (sum == 0 ? 1.0f : sum);
      if (!kTables) {
#pragma unroll
        for (int j = 0; j < kDim / 8; ++j) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            if (weight > 0) merged[0][j][e] += out[0][j][e] * (factor * weight);
          }
        }
        continue;
      }
      float dot = 0;
      const T* dout = own.dout.data ? row_of<T>(own.dout, tile.batch, tile.first + row, head) : nullptr;
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) {
        const int d = 8 * j + 2 * (lane % 4);
        if (!dout || !segment.covers(row) || d >= sequence.head_dim_v) continue;
        const Vec<T, 4> pair = load_vec<T, 4>(dout + d);
        dot += factor *
               (out[0][j][2 * half] * to_acc(pair.at[0]) + out[0][j][2 * half + 1] * to_acc(pair.at[1]));
      }
      dot = row_sum(dot);
      if (lane % 4 || !segment.covers(row)) continue;
      const int64_t place = row_table(c, segment.chunk, head) + segment.column + row;
      a.dots[place] = dot;
      a.lse[place] = weight > 0 ? (state.base[0][half] + log2f(sum)) * kLn2 - logf(weight) : INFINITY;
    }
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
  if (kTables) return;
  float factor[1][2];
  fill(factor, 1.0f);
  store_warp_rows(merged, factor, smem.q, row_of<T>(own.out, tile.batch, tile.first, head),
                  own.out.row_stride, sequence.head_dim_v, tile.num_rows);
}

// Grid: heads > tiles of rows, the last fastest; over the chunks that have a row of the tile, and for each
// over its keys.
template <typename T, int kDim, bool kExtra>
__global__ void __launch_bounds__(BackwardShape<kDim>::kThreads)
    chunked_backward_q(const __grid_constant__ GpuChunkedParams a, const int64_t tiles) {
  using Shape = BackwardShape<kDim>;
  const ChunkedParams& c = a.c;
  const AttentionParams &sequence = c.sequence, &own = kExtra ? c.extra : c.sequence;
  const int64_t head = blockIdx.x / tiles, kv_head = head / (sequence.num_heads / sequence.num_kv_heads);
  const ChunkedTile tile = chunked_tile<kExtra>(a, blockIdx.x % tiles, Shape::kRows);
  const BackwardTiles<Shape> smem{ptx::smem_address(ptx::dynamic_smem())};
  const auto there = [&](int row) { return row < tile.num_rows; };
  copy_rows<Shape::kRows, Shape::kThreads>(smem.own(0), row_of<T>(own.q, tile.batch, tile.first, head),
                                           own.q.row_stride, static_cast<int>(sequence.head_dim), there);
  copy_rows<Shape::kRows, Shape::kThreads>(smem.own(1), row_of<T>(own.dout, tile.batch, tile.first, head),
                                           own.dout.row_stride, static_cast<int>(sequence.head_dim_v), there);
  ptx::cp_async_commit();
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
  const GradientRule rule{ScoreRule::of(sequence, head, 0), {}, head, 0};
  float dq[1][kDim / 8][4] = {};
  for (int64_t n = tile.segments.begin; n < tile.segments.end; ++n) {
    const TileSegment segment = segment_at<kExtra>(c, tile, n);
    if (segment.begin >= segment.end) continue;
    QueryStats stats;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + 8 * half + lane / 4;
      const bool counts = merge_weight<kExtra>(c, segment, row) > 0;
      const int64_t place = row_table(c, segment.chunk, head) + segment.column + row;
      stats.lse[half] = counts ? a.lse[place] * kLog2E : INFINITY;
      stats.delta[half] = counts ? a.dots[place] : 0.0f;
    }
    for_each_run(c, segment.chunk,
                 [&](const AttentionParams& tokens, int64_t batch, int first, int count, int64_t) {
                   const auto rows = KeyRows<T>::of(tokens, batch, first, kv_head);
                   // A row with weight 0 sees no key; its products are not used.
                   const auto bounds = [&](int, int half) {
                     return RowKeys{0, stats.lse[half] == INFINITY ? 0 : count, 0, 0};
                   };
                   QueriesByKeys<1, false, decltype(bounds)> queries{.row = {stats}, .bounds = bounds};
                   over_keys<T, false>(
                       sequence, rule, smem, rows, queries, (count + Shape::kSteps - 1) / Shape::kSteps,
                       [&](int i) {
                         KeyTile keys = run_tile(i, count, Shape::kSteps);
                         keys.masked = true;
                         return keys;
                       },
                       [&](const SmemTile<kDim>& k_tile, const auto& ds, const auto&) {
                         add_product<T, 1, Shape::kSteps / 8, kDim>(dq, ds, k_tile, 0);
                       });
                 });
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
  float factor[1][2];
  fill(factor, rule.score.scale);
  store_warp_rows(dq, factor, smem.own(0), row_of<T>(own.dq, tile.batch, tile.first, head), own.dq.row_stride,
                  sequence.head_dim, tile.num_rows);
}

// Grid: kv heads > tiles of rows as keys, the last fastest; over the chunks that have a row of the tile, the
// heads of the group, and the queries of the chunk.
template <typename T, int kDim, bool kExtra>
__global__ void __launch_bounds__(BackwardShape<kDim>::kThreads)
    chunked_backward_kv(const __grid_constant__ GpuChunkedParams a, const int64_t tiles) {
  using Shape = BackwardShape<kDim>;
  const ChunkedParams& c = a.c;
  const AttentionParams &sequence = c.sequence, &own = kExtra ? c.extra : c.sequence;
  const int64_t kv_head = blockIdx.x / tiles, group = sequence.num_heads / sequence.num_kv_heads;
  const ChunkedTile tile = chunked_tile<kExtra>(a, blockIdx.x % tiles, Shape::kRows);
  const BackwardTiles<Shape> smem{ptx::smem_address(ptx::dynamic_smem())};
  const auto there = [&](int row) { return row < tile.num_rows; };
  copy_rows<Shape::kRows, Shape::kThreads>(smem.own(0), row_of<T>(own.k, tile.batch, tile.first, kv_head),
                                           own.k.row_stride, static_cast<int>(sequence.head_dim), there);
  copy_rows<Shape::kRows, Shape::kThreads>(smem.own(1), row_of<T>(own.v, tile.batch, tile.first, kv_head),
                                           own.v.row_stride, static_cast<int>(sequence.head_dim_v), there);
  ptx::cp_async_commit();
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
  float dk[1][kDim / 8][4] = {}, dv[1][kDim / 8][4] = {};
  for (int64_t n = tile.segments.begin; n < tile.segments.end; ++n) {
    const TileSegment segment = segment_at<kExtra>(c, tile, n);
    if (segment.begin >= segment.end) continue;
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const GradientRule rule{ScoreRule::of(sequence, head, 0), {}, head, 0};
      for_each_run(c, segment.chunk,
                   [&](const AttentionParams& tokens, int64_t batch, int first, int count, int64_t column) {
                     if (!tokens.dout.data) return;
                     const auto bounds = [&](int, int half) {
                       return RowQueries{0, segment.covers(warp_row + 8 * half + lane / 4) ? count : 0};
                     };
                     KeysByQueries<1, decltype(bounds)> keys{.bounds = bounds};
                     const int64_t place = row_table(c, segment.chunk, head) + column;
                     const QueryRows<T> rows{row_of<T>(tokens.q, batch, first, head),
                                             row_of<T>(tokens.dout, batch, first, head),
                                             tokens.q.row_stride,
                                             tokens.dout.row_stride,
                                             a.lse + place,
                                             a.dots + place};
                     QueryTiles queries{};
                     queries.end = count, queries.count = (count + Shape::kSteps - 1) / Shape::kSteps;
                     over_queries<T, false, KeyGradients::kBoth>(
                         sequence, smem, keys, queries, 1, [&](int) { return rows; },
                         [&](int) { return rule; }, dk, dv);
                   });
    }
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
  const auto scale = static_cast<float>(sequence.softmax_scale);
  float of_keys[1][2], of_values[1][2];
  fill(of_keys, scale), fill(of_values, 1.0f);
  store_warp_rows(dk, of_keys, smem.own(0), row_of<T>(own.dk, tile.batch, tile.first, kv_head),
                  own.dk.row_stride, sequence.head_dim, tile.num_rows);
  store_warp_rows(dv, of_values, smem.own(1), row_of<T>(own.dv, tile.batch, tile.first, kv_head),
                  own.dv.row_stride, sequence.head_dim_v, tile.num_rows);
}

}  // namespace lck
