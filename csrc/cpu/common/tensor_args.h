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

// Asks for huge pages where a fresh output is a mapping of its own (page faults cost more than the copy), and
// says whether to stream into it: streaming pays but on pages that the kernel has just cleared. `fresh`: the
// caller has just allocated it.
bool prepare_output(const Tensor& out, bool fresh);

}  // namespace lck
