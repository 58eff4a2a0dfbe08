// The kernels of overlap_merge and overlap_split, compiled once per instruction set. A kernel computes a
// range of output tiles, without torch and threads.
#pragma once

#include <cstdint>

#include "host/cpu_features.h"
#include "params.h"

namespace lck {

// Runs output tiles [tile_begin, tile_end); scratch holds overlap_scratch_bytes(params). Returns the first
// position of the range whose weights or their sum are invalid, or -1.
using OverlapKernel = int64_t (*)(const OverlapParams&, int64_t tile_begin, int64_t tile_end, void* scratch);

struct OverlapKernels {
  OverlapKernel gather;   // sequence[t] = sum of weight * chunk row: overlap_merge, overlap_split's backward
  OverlapKernel scatter;  // chunk rows = weight * sequence[t]: overlap_split, overlap_merge's backward
  OverlapKernel weight_grad;  // dweights from sequence (dout) and chunks
  // Zeros the columns outside segments that segments [begin, end) write.
  void (*fill)(const OverlapParams&, int64_t begin, int64_t end);
};

const OverlapKernels& overlap_kernels(Isa isa, DType dtype);

// The longest range of params.tile_segments, for params.most_segments.
int64_t most_segments(const OverlapParams& params);

// Bytes of a kernel's scratch; only the part for a tile's segments is used.
int64_t overlap_scratch_bytes(const OverlapParams& params);

}  // namespace lck
