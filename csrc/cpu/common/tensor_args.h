// What every private op needs of its tensors, and the instruction set in use. Included by register*.cpp
// alone.
#pragma once

#include "binding/tensors.h"
#include "cpu/common/parallel.h"
#include "host/cpu_features.h"

namespace lck {

// Elements that a thread should have before a second one is worth waking.
inline constexpr int64_t kGrainElements = 32768;

Isa current_isa();

// Requests huge pages for an output that is a mapping of its own (page faults cost more than the copy), and
// returns whether to store into it past the caches, which is faster except on pages that the kernel has just
// zeroed. The caller has just allocated the output.
bool prepare_output(const Tensor& out);

}  // namespace lck
