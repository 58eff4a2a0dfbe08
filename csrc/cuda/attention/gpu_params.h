// Parameters of windowed attention on a GPU; every pointer is to its memory.
#pragma once

#include "layout.h"
#include "params.h"

namespace lck {

struct GpuAttentionParams {
  AttentionParams
      p;  // without sequences, segments and seed, which a kernel reads from the fields below; scores are fp32
  LayoutTables layout;
  const int64_t* seed;  // (1), or null without dropout
};

// Tiles of `rows` rows of the sequences of a row of the batch. A packed sequence begins at tile
// cu_seqlens[t] / rows + t, so that sequences of any lengths fit.
inline int64_t num_tiles(const LayoutTables& layout, int64_t total, int64_t rows) {
  if (!layout.cu_seqlens_q) return (total + rows - 1) / rows;
  return layout.num_sequences ? total / rows + layout.num_sequences : 0;
}

inline constexpr int64_t kMaxHeadDim = 256;

// Strips of partial sums of the bias' gradient: (batch, num_heads, strips, bias_len).
inline int64_t bias_strips(const GpuAttentionParams& a) {
  constexpr int64_t kMost = 64, kFewestRows = 64;
  return larger(1, smaller(kMost, num_tiles(a.layout, a.p.seqlen_q, kFewestRows)));
}

}  // namespace lck
