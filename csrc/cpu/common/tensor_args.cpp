#include "cpu/common/tensor_args.h"

#if defined(__linux__)
  #include <sys/mman.h>
#endif

#include <cstdint>

namespace lck {

namespace {

// Outputs of this size are new mappings, whose pages do not exist yet; smaller ones are from malloc's heap.
constexpr int64_t kMappedBytes = int64_t{32} << 20;
// Outputs larger than the inner caches are written with streaming stores if their pages exist.
constexpr int64_t kStreamBytes = int64_t{4} << 20;

}  // namespace

bool prepare_output(const Tensor& out) {
  const int64_t bytes = out.numel() * static_cast<int64_t>(out.element_size());
  if (bytes < kMappedBytes) return bytes >= kStreamBytes;
#if defined(__linux__)
  constexpr uintptr_t kPage = 4096;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(out.const_data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = (begin + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return false;
}

}  // namespace lck
