// overlap_merge, overlap_split and their backwards in CUDA: one pass, each result written once.
//
// Bytes that must move: see lckernels/backends/triton/overlap.py; weights are computed from the
// plan, which is in the caches.
#pragma once

#include "cuda/common/elements.cuh"
#include "overlap_weights.h"

namespace lck {

inline constexpr int kOverlapThreads = 256;

// Division of rows among threads: `lanes` threads, a power of two, per row; each has kVecs vectors, `lanes`
// apart; `blocks` blocks per row.
struct RowCut {
  int lanes;
  int64_t blocks;
};

// Vectors of a row per thread: their loads are in flight together.
inline constexpr int kVecs = 4;

// The index of a thread's row in the grid, and its first vector in the row.
struct RowPlace {
  int64_t row, vec;
};

__device__ __forceinline__ RowPlace row_place(const RowCut& cut) {
  const int64_t block = blockIdx.x;
  const int row = threadIdx.x / cut.lanes, lane = threadIdx.x % cut.lanes;
  return {block / cut.blocks * (kOverlapThreads / cut.lanes) + row,
          block % cut.blocks * cut.lanes * kVecs + lane};
}

// The segments that may overlap the tile of a position: [begin, end) of p.segments.
__device__ __forceinline__ Span segments_at(const OverlapParams& p, int64_t position) {
  const int32_t* range = p.tile_segments + 2 * (position / kTileLen);
  return intersect({range[0], range[1]}, {0, p.num_segments});
}

// A segment's weight at a position; `covers` is false, and the weight 0, outside it.
template <typename A>
struct WeightHere {
  A weight;
  bool covers;
};

template <typename A>
__device__ __forceinline__ WeightHere<A> weight_here(const OverlapParams& p, const Segment& s,
                                                     int64_t position) {
  const int64_t u = position - s.start;
  if (u < 0 || u >= s.length) return {A(0), false};
  const A* row = p.weights ? static_cast<const A*>(p.weights) + s.row * p.chunk_len : nullptr;
  return {weight_at(s, p.mode, row, u), true};
}

template <typename A>
__device__ __forceinline__ A weight_sum(const OverlapParams& p, const Span& segments, int64_t position) {
  A sum = 0;
  for (int64_t n = segments.begin; n < segments.end; ++n) {
    sum += weight_here<A>(p, inside(p.segments[n], p), position).weight;
  }
  return sum;
}

// A weight divided by the sum: unchanged in kAdd, 0 if the sum is 0.
template <typename A>
__device__ __forceinline__ A normalized(const OverlapParams& p, A weight, A sum) {
  if (p.mode == WeightMode::kAdd) return weight;
  return sum > 0 ? weight / sum : A(0);
}

template <typename T>
__device__ __forceinline__ T* chunk_row(const OverlapParams& p, const Segment& s, int64_t column) {
  return static_cast<T*>(p.chunks) + s.row * p.chunk_stride + column * p.column_stride;
}

template <typename T>
__device__ __forceinline__ T* position_row(const OverlapParams& p, int64_t position) {
  return static_cast<T*>(p.sequence) + position * p.position_stride;
}

// sequence[t] = sum of weight * chunk row. Grid: ceil(total_len / rows of a block) * cut.blocks, the latter
// fastest.
template <typename T, int kBytes>
__global__ void __launch_bounds__(kOverlapThreads) overlap_gather(const OverlapParams p, const RowCut cut) {
  using V = Vec<T, kBytes>;
  using A = Acc<T>;
  const RowPlace place = row_place(cut);
  const int64_t position = place.row, vecs = p.dim / V::kSize;
  if (position >= p.total_len) return;
  const Span segments = segments_at(p, position);
  const A sum = weight_sum<A>(p, segments, position);
  A total[kVecs][V::kSize] = {};
  for (int64_t n = segments.begin; n < segments.end; ++n) {
    const Segment s = inside(p.segments[n], p);
    const A weight = normalized(p, weight_here<A>(p, s, position).weight, sum);
    if (weight == 0) continue;
    const T* row = chunk_row<T>(p, s, s.col + (position - s.start));
    V x[kVecs];
#pragma unroll
    for (int i = 0; i < kVecs; ++i) {
      const int64_t vec = place.vec + i * cut.lanes;
      if (vec < vecs) x[i] = load_vec<T, kBytes>(row + vec * V::kSize);
    }
#pragma unroll
    for (int i = 0; i < kVecs; ++i) {
      if (place.vec + i * cut.lanes >= vecs) break;
#pragma unroll
      for (int e = 0; e < V::kSize; ++e) total[i][e] += weight * to_acc(x[i].at[e]);
    }
  }
  T* out = position_row<T>(p, position);
#pragma unroll
  for (int i = 0; i < kVecs; ++i) {
    const int64_t vec = place.vec + i * cut.lanes;
    if (vec >= vecs) break;
    V x;
#pragma unroll
    for (int e = 0; e < V::kSize; ++e) x.at[e] = from_acc<T>(total[i][e]);
    store_vec(out + vec * V::kSize, x);
  }
}

// chunk rows = weight * sequence[t], and 0 in the columns outside segments. Grid: num_segments *
// ceil(chunk_len / rows of a block) * cut.blocks, the last fastest; a segment writes the columns
// [fill_start, fill_end) of its row, and blocks beyond them nothing.
template <typename T, int kBytes>
__global__ void __launch_bounds__(kOverlapThreads)
    overlap_scatter(const OverlapParams p, const RowCut cut, const int64_t rows_a_segment) {
  using V = Vec<T, kBytes>;
  using A = Acc<T>;
  const RowPlace place = row_place(cut);
  const Segment s = inside(p.segments[place.row / rows_a_segment], p);
  const int64_t column = larger(s.fill_start, 0) + place.row % rows_a_segment, vecs = p.dim / V::kSize;
  if (column >= smaller(s.fill_end, p.chunk_len)) return;
  const int64_t position = s.start + (column - s.col);
  const WeightHere<A> own = weight_here<A>(p, s, position);
  A weight = 0;
  if (own.covers && own.weight != 0) {
    weight =
        normalized(p, own.weight,
                   p.mode == WeightMode::kAdd ? A(1) : weight_sum<A>(p, segments_at(p, position), position));
  }
  const T* row = position_row<T>(p, weight == 0 ? 0 : position);
  T* out = chunk_row<T>(p, s, column);
  V x[kVecs] = {};  // used if nothing is read
#pragma unroll
  for (int i = 0; i < kVecs; ++i) {
    const int64_t vec = place.vec + i * cut.lanes;
    if (weight != 0 && vec < vecs) x[i] = load_vec<T, kBytes>(row + vec * V::kSize);
  }
#pragma unroll
  for (int i = 0; i < kVecs; ++i) {
    const int64_t vec = place.vec + i * cut.lanes;
    if (vec >= vecs) break;
#pragma unroll
    for (int e = 0; e < V::kSize; ++e) {
      x[i].at[e] = from_acc<T>(weight * to_acc(x[i].at[e]));
    }
    store_vec(out + vec * V::kSize, x[i]);
  }
}

template <typename A>
__device__ __forceinline__ A warp_sum(A x) {
#pragma unroll
  for (int d = 16; d; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
  return x;
}

// dweights = (<dout, x> - sum of weight * <dout, x>) / sum of weights, at each covered column; at a zero
// weight it is 0 if the product is not finite. Grid: ceil(total_len / warps of a block); one warp per
// position.
template <typename T, int kBytes>
__global__ void __launch_bounds__(kOverlapThreads) overlap_weight_grad(const OverlapParams p) {
  using V = Vec<T, kBytes>;
  using A = Acc<T>;
  const int lane = threadIdx.x % 32;
  const int64_t position = int64_t{blockIdx.x} * (kOverlapThreads / 32) + threadIdx.x / 32;
  if (position >= p.total_len) return;
  const Span segments = segments_at(p, position);
  const A sum = weight_sum<A>(p, segments, position);
  const T* dout = position_row<T>(p, position);
  A* dweights = static_cast<A*>(p.dweights);
  A mean = 0;
  for (int64_t n = segments.begin; n < segments.end; ++n) {
    const Segment s = inside(p.segments[n], p);
    const WeightHere<A> here = weight_here<A>(p, s, position);
    if (!here.covers) continue;
    const int64_t column = s.col + (position - s.start);
    const T* row = chunk_row<T>(p, s, column);
    A dot = 0;
    for (int64_t vec = lane; vec < p.dim / V::kSize; vec += 32) {
      const V x = load_vec<T, kBytes>(row + vec * V::kSize), y = load_vec<T, kBytes>(dout + vec * V::kSize);
#pragma unroll
      for (int e = 0; e < V::kSize; ++e) dot += to_acc(x.at[e]) * to_acc(y.at[e]);
    }
    dot = warp_sum(dot);
    if (here.weight > 0 && sum > 0) mean += here.weight / sum * dot;
    if (lane == 0) dweights[s.row * p.chunk_len + column] = dot;
  }
  for (int64_t n = segments.begin; lane == 0 && n < segments.end; ++n) {
    const Segment s = inside(p.segments[n], p);
    const WeightHere<A> here = weight_here<A>(p, s, position);
    if (!here.covers) continue;
    A* out = dweights + s.row * p.chunk_len + s.col + (position - s.start);
    const bool read = here.weight > 0 || *out - *out == 0;
    *out = read && sum > 0 ? (*out - mean) / sum : A(0);
  }
}

}  // namespace lck
