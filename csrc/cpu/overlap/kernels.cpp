#include "cpu/overlap/kernels.h"

#include <algorithm>

#include "cpu/common/isa_dispatch.h"

namespace lck {

LCK_DISPATCH_ISA(OverlapKernels, overlap_kernels)

int64_t most_segments(const OverlapParams& params) {
  int64_t most = 0;
  for (int64_t i = 0; i < params.num_tiles; ++i) {
    const int64_t first = std::max<int64_t>(params.tile_segments[2 * i], 0);
    const int64_t stop = std::min<int64_t>(params.tile_segments[2 * i + 1], params.num_segments);
    most = std::max(most, stop - first);
  }
  return most;
}

int64_t overlap_scratch_bytes(const OverlapParams& params) {
  // The sums; for each segment its weights, row pointer, weight, dot product and the segment.
  constexpr int64_t kWeightBytes = kTileLen * sizeof(double);
  return kWeightBytes + params.most_segments * (kWeightBytes + 3 * sizeof(double) + sizeof(Segment));
}

}  // namespace lck
