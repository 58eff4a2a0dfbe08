#include "cpu/tensor_args.h"

#if defined(__linux__)
  #include <sys/mman.h>
#endif

#include <cstdint>

namespace lck {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

// Outputs this large are fresh mappings when the caller has just allocated them; smaller ones come from
// malloc's heap.
constexpr int64_t kFreshMappingBytes = int64_t{32} << 20;
// Outputs that outgrow the inner caches are streamed when their pages are already there.
constexpr int64_t kStreamBytes = int64_t{4} << 20;

}  // namespace

DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::Double:
      return DType::kFloat64;
    default:
      STD_TORCH_CHECK(false, "lckernels_cpu: allowed dtypes are float32, bfloat16, float16, float64");
  }
}

ScalarType accumulator_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

bool prepare_output(const Tensor& out, bool fresh) {
  const int64_t bytes = out.numel() * static_cast<int64_t>(out.element_size());
  if (!fresh || bytes < kFreshMappingBytes) return bytes >= kStreamBytes;
#if defined(__linux__)
  constexpr uintptr_t kPage = 4096;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(out.const_data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = (begin + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return false;
}

}  // namespace lck
