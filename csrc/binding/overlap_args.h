// The arguments of the private ops of overlap_merge and overlap_split.
#pragma once

#include <string>

#include "binding/tensors.h"

namespace lck {

// Checks all but the plan's values, which the kernels cut to what lies inside the tensors. `weights` are
// given with mode "explicit" and with no other. Without most_segments.
OverlapParams overlap_params(const Tensor& chunks, const Tensor& sequence, const OptionalTensor& weights,
                             const Tensor& segments, const Tensor& tile_segments, const std::string& mode);

// An explicit table of weights or its gradient: contiguous, one entry per chunk and column.
void check_overlap_table(const Tensor& table, const Tensor& chunks, const char* name);

}  // namespace lck
