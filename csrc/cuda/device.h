// A tensor's device and its current stream during one op; the only file that uses torch's C shim.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <stdexcept>
#include <string>

#include "binding/tensors.h"
#include "cuda/common/launch.h"

namespace lck {

inline Launch current_stream(const Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return {static_cast<cudaStream_t>(stream)};
}

inline std::string shape_of(const Tensor& x) {
  std::string text = "(";
  for (int64_t i = 0; i < x.dim(); ++i) text += (i ? ", " : "") + std::to_string(x.size(i));
  return text + ")";
}

// Calls run(launch) with x's device as the current one. A launch that fails names the op and x's shape.
template <typename Run>
void on_device_of(const Tensor& x, const char* op, const Run& run) {
  STD_TORCH_CHECK(x.is_cuda(), "lckernels_cuda: ", op, " requires tensors on a GPU");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  try {
    run(current_stream(x));
  } catch (const std::runtime_error& error) {
    STD_TORCH_CHECK(false, "lckernels_cuda: ", op, " on shape ", shape_of(x), ": ", error.what());
  }
}

}  // namespace lck
