// The normalized weight of each chunk at each position of a tile.
#pragma once

#include "cpu/simd/vec.h"
#include "overlap_weights.h"
#include "params.h"

namespace lck::LCK_ISA {

// One output tile: positions [start, start + length), and the segments that overlap it.
struct Tile {
  int64_t start, length, count;
  const Segment* segments;  // (count), clamped to the tensors

  bool covers(int64_t n, int64_t position) const {
    const int64_t u = position - segments[n].start;
    return u >= 0 && u < segments[n].length;
  }
};

// Tile `index`; `segments` has space for the plan's whole range of the tile.
inline Tile tile_at(const OverlapParams& p, int64_t index, Segment* segments) {
  const int64_t start = index * kTileLen, rest = p.total_len - start;
  const int64_t length = rest < kTileLen ? rest : kTileLen;
  const int64_t begin = p.tile_segments[2 * index], end = p.tile_segments[2 * index + 1];
  const int64_t stop = end > p.num_segments ? p.num_segments : end;
  int64_t count = 0;
  for (int64_t n = begin < 0 ? 0 : begin; n < stop; ++n) {
    const Segment s = inside(p.segments[n], p);
    const int64_t last = static_cast<int64_t>(s.start) + s.length;
    if (s.length > 0 && s.start < start + length && last > start) segments[count++] = s;
  }
  return {start, length, count, segments};
}

// weights (tile.count, kTileLen) = the weight of each segment at each position divided by the sum of all, 0
// where a segment does not cover it; for kAdd the weight itself. sums (kTileLen) = the sums. Returns the
// first position, relative to the tile, with a weight that is negative or not finite, or with a sum that is
// zero or not finite; -1 if there is none.
template <typename A>
int64_t normalized_weights(const OverlapParams& p, const Tile& tile, A* weights, A* sums) {
  constexpr A kInfinity = static_cast<A>(__builtin_inff());
  for (int64_t i = 0; i < kTileLen; ++i) sums[i] = 0;
  int64_t bad = kTileLen;
  for (int64_t n = 0; n < tile.count; ++n) {
    const Segment& s = tile.segments[n];
    A* a = weights + n * kTileLen;
    const A* explicit_row = static_cast<const A*>(p.weights) + (p.weights ? s.row * p.chunk_len : 0);
    const int64_t from = s.start - tile.start;  // u = i - from
    for (int64_t i = 0; i < kTileLen; ++i) {
      const bool covered = i >= from && i < from + s.length && i < tile.length;
      a[i] = covered ? weight_at(s, p.mode, explicit_row, i - from) : A(0);
    }
    for (int64_t i = 0; i < kTileLen; ++i) {
      if (!(a[i] >= 0 && a[i] < kInfinity) && i < bad) bad = i;
      sums[i] += a[i];
    }
  }
  if (p.mode == WeightMode::kAdd) return -1;
  for (int64_t i = 0; i < tile.length; ++i) {
    if (!(sums[i] > 0 && sums[i] < kInfinity) && i < bad) bad = i;
  }
  for (int64_t n = 0; n < tile.count; ++n) {
    A* a = weights + n * kTileLen;
    for (int64_t i = 0; i < kTileLen; ++i) a[i] = sums[i] > 0 ? a[i] / sums[i] : A(0);
  }
  return bad < kTileLen ? bad : -1;
}

}  // namespace lck::LCK_ISA
