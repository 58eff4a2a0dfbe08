// Inputs and outputs of the private ops, and the instruction set in use. Included only by <op>/register.cpp.
#pragma once

#include <initializer_list>
#include <optional>

#include "binding/tensors.h"
#include "cpu/common/parallel.h"
#include "host/cpu_features.h"

namespace lck {

// Elements per thread that justify one more thread.
inline constexpr int64_t kGrainElements = 32768;

Isa current_isa();

// Requests huge pages for an output that is a mapping of its own (page faults cost more than the copy), and
// returns whether to use streaming stores, which are faster except on pages that the operating system has
// just zeroed. The output must be newly allocated.
bool prepare_output(const Tensor& out);

// A new contiguous tensor like x in device and dtype (or of dtype `type`), not initialised.
Tensor new_tensor(const Tensor& x, std::initializer_list<int64_t> sizes,
                  std::optional<ScalarType> type = std::nullopt);

// x, copied if its last dim is not contiguous.
Tensor contiguous_rows(const Tensor& x);

}  // namespace lck
