// What every private op needs of its tensors, and the instruction set in use. Included by register*.cpp
// alone.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/version.h>

#include "cpu/parallel.h"
#include "host/cpu_features.h"
#include "params.h"

static_assert(TORCH_TARGET_VERSION <= TORCH_ABI_VERSION,
              "the torch headers are older than the targeted version");

namespace lck {

// Elements that a thread should have before a second one is worth waking.
inline constexpr int64_t kGrainElements = 32768;

Isa current_isa();

DType dtype_of(const torch::stable::Tensor& tensor);

// The dtype that elements of that dtype are accumulated in: fp32, fp64 for fp64.
torch::headeronly::ScalarType accumulator_of(const torch::stable::Tensor& tensor);

// Asks for huge pages where a fresh output is a mapping of its own (page faults cost more than the copy), and
// says whether to stream into it: streaming pays but on pages that the kernel has just cleared. `fresh`: the
// caller has just allocated it.
bool prepare_output(const torch::stable::Tensor& out, bool fresh);

}  // namespace lck
