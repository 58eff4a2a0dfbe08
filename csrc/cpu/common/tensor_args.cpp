#include "cpu/common/tensor_args.h"

#include <torch/csrc/stable/ops.h>

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

Tensor new_tensor(const Tensor& x, std::initializer_list<int64_t> sizes, std::optional<ScalarType> type) {
  // torch::stable::new_empty makes a boxed call, which takes longer.
  int32_t code = 0, device_type = aoti_torch_device_type_cpu();
  if (type) code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(*type));
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_aten_new_empty(x.get(), sizes.begin(), static_cast<int64_t>(sizes.size()),
                                                   type ? &code : nullptr, nullptr, &device_type, 0, nullptr,
                                                   &made));
  return Tensor(made);
}

Tensor contiguous_rows(const Tensor& x) {
  const int64_t last = x.dim() - 1;
  return last < 0 || x.size(last) <= 1 || x.stride(last) == 1 ? x : torch::stable::contiguous(x);
}

}  // namespace lck
