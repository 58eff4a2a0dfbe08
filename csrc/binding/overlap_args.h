// The arguments of the private ops of overlap_merge and overlap_split as OverlapParams.
#pragma once

#include <string>

#include "binding/tensors.h"

namespace lck {

// Checks everything except the plan's values, which the kernels clamp to the tensors. `weights` must be given
// if and only if the mode is "explicit". most_segments is left 0.
OverlapParams overlap_params(const Tensor& chunks, const Tensor& sequence, const OptionalTensor& weights,
                             const Tensor& segments, const Tensor& tile_segments, const std::string& mode);

// An explicit table of weights or its gradient: contiguous, one entry per chunk and column.
void check_overlap_table(const Tensor& table, const Tensor& chunks, const char* name);

}  // namespace lck
