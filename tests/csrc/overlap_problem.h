// Problems of overlap_merge and overlap_split in fp32, on buffers of exactly the tensors' size.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "cpu/overlap/kernels.h"
#include "params.h"

namespace lck::test {

// Chunks of chunk_len every `stride` positions, the last one shifted left.
struct OverlapProblem {
  std::vector<Segment> segments;
  std::vector<int32_t> tiles;
  std::vector<float> chunks, sequence, weights;
  OverlapParams params{};

  OverlapProblem(int32_t total, int32_t chunk_len, int32_t stride, int64_t dim, WeightMode mode)
      : OverlapProblem(total, chunk_len, chunks_every(total, chunk_len, stride), dim, mode) {}

  // Any segments, sorted by their starts, of rows 0 to the last one's.
  OverlapProblem(int32_t total, int32_t chunk_len, std::vector<Segment> of_chunks, int64_t dim,
                 WeightMode mode)
      : segments(std::move(of_chunks)) {
    const int64_t num_tiles = (total + lck::kTileLen - 1) / lck::kTileLen;
    for (int64_t i = 0; i < num_tiles; ++i) {
      const int64_t begin = i * kTileLen, end = begin + kTileLen;
      int32_t first = 0, last = static_cast<int32_t>(segments.size());
      while (first < last && segments[first].start + segments[first].length <= begin) ++first;
      while (first < last && segments[last - 1].start >= end) --last;
      tiles.push_back(first);
      tiles.push_back(last);
    }
    std::mt19937 random(7);
    std::uniform_real_distribution<float> uniform(0.1f, 1.0f);
    const auto fill = [&](std::vector<float>& x, int64_t size) {
      x.resize(size);
      for (float& value : x) value = uniform(random);
    };
    const int64_t rows = segments.back().row + 1;
    fill(chunks, rows * chunk_len * dim);
    fill(sequence, total * dim);
    fill(weights, rows * chunk_len);
    params.chunks = chunks.data();
    params.sequence = sequence.data();
    params.weights = mode == WeightMode::kExplicit ? weights.data() : nullptr;
    params.segments = segments.data();
    params.tile_segments = tiles.data();
    params.num_segments = static_cast<int64_t>(segments.size());
    params.num_chunks = rows;
    params.num_tiles = num_tiles;
    params.chunk_len = chunk_len;
    params.total_len = total;
    params.dim = params.column_stride = params.position_stride = dim;
    params.chunk_stride = chunk_len * dim;
    params.mode = mode;
    params.most_segments = lck::most_segments(params);
  }

  std::vector<double> scratch() const {
    return std::vector<double>((lck::overlap_scratch_bytes(params) + 7) / sizeof(double));
  }

 private:
  static std::vector<Segment> chunks_every(int32_t total, int32_t chunk_len, int32_t stride) {
    std::vector<Segment> all;
    for (int32_t start = 0, row = 0;; start += stride, ++row) {
      const bool last = start + chunk_len >= total;
      const int32_t length = std::min(chunk_len - 1, total), begin = last ? total - length : start;
      all.push_back({row, 1, begin, length, 0, length, begin == 0, last, 0, chunk_len});
      if (last) return all;
    }
  }
};

}  // namespace lck::test
