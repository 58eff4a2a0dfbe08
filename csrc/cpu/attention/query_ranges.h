// Ranges of queries of one kv head, each one task of a thread, which packs the key tiles that its queries see
// as it reaches them, into a ring of its own. For windows and sequences whose ring fits in a thread's cache.
#pragma once

#include <vector>

#include "cpu/attention/kernels.h"

namespace lck {

// Computes the sequences that fit, and marks them in `done`; none if their ranges would not occupy the
// threads equally.
void run_query_ranges(const AttentionForwardKernels& kernels, DType dtype, const AttentionParams& p,
                      std::vector<bool>* done);

}  // namespace lck
