// Parameters of chunked attention on a GPU; every pointer is to its memory.
#pragma once

#include "params.h"

namespace lck {

struct GpuChunkedParams {
  // chunk_bounds and chunk_segments have indices of segments, which kernels clamp; merge_weights are fp32.
  ChunkedParams c;
  const int32_t* tile_segments;  // (ceil(total_len / kTileLen), 2), as in OverlapParams
  // Of the backward: (num_chunks, num_heads, chunk_len + num_extra), the extra rows after the columns.
  float* lse;   // minus log(weight), so that probabilities include the weight; inf if that is 0
  float* dots;  // <dout, out of the chunk>
};

inline constexpr int64_t kMaxChunkedHeadDim = 128;

}  // namespace lck
