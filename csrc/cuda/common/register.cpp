// The library lckernels_cuda of private torch ops, on the libtorch stable ABI; <op>/register.cpp adds to it.
#include <cuda_runtime_api.h>

#include <string>

#include "binding/tensors.h"

namespace lck {
namespace {

// Why the GPU's driver cannot run this library's CUDA runtime; empty if it can.
std::string missing_driver() {
  int driver = 0, runtime = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || cudaRuntimeGetVersion(&runtime) != cudaSuccess) {
    return "the CUDA runtime finds no driver";
  }
  const auto major = [](int version) { return std::to_string(version / 1000); };
  if (driver / 1000 >= runtime / 1000) return "";
  return "it was built with CUDA " + major(runtime) + ", the driver ends at CUDA " + major(driver);
}

}  // namespace
}  // namespace lck

STABLE_TORCH_LIBRARY_FRAGMENT(lckernels_cuda, m) {
  m.def("missing_driver() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(lckernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("missing_driver", TORCH_BOX(&lck::missing_driver));
}
