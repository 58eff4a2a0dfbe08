// Conversion and checks of torch tensors, on the libtorch stable ABI. Included only by files that register
// ops. Every tensor of a call must be on the device of its first one.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/version.h>

#include <optional>

#include "params.h"

static_assert(TORCH_TARGET_VERSION <= TORCH_ABI_VERSION,
              "the torch headers are older than the targeted version");

namespace lck {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

DType dtype_of(const Tensor& tensor);

// The dtype in which elements of the tensor are accumulated: fp32, fp64 for fp64.
ScalarType accumulator_of(const Tensor& tensor);

bool same_device(const Tensor& x, const Tensor& like);

// (batch, seqlen, heads, dim), or with heads_first (batch, heads, seqlen, dim), with a contiguous last dim,
// like `like` in device and dtype. Raises otherwise.
HeadsTensor heads_tensor(const Tensor& x, const Tensor& like, const char* name, bool heads_first = false);

// The data of an optional contiguous table of numel entries; null without one. Raises if it does not fit.
const void* table_data(const OptionalTensor& x, const Tensor& like, ScalarType type, int64_t numel,
                       const char* name);

template <typename E>
const E* table(const OptionalTensor& x, const Tensor& like, ScalarType type, int64_t numel,
               const char* name) {
  return static_cast<const E*>(table_data(x, like, type, numel, name));
}

}  // namespace lck
