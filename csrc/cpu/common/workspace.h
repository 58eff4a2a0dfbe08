// Temporary memory of one call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#if defined(__linux__)
  #include <sys/mman.h>
#endif

namespace lck {

struct FreeBytes {
  void operator()(void* p) const { std::free(p); }
};
// 64-byte aligned, not initialised; null for 0 bytes.
using Workspace = std::unique_ptr<std::byte, FreeBytes>;

inline Workspace make_workspace(int64_t bytes) {
  constexpr int64_t kHugePage = int64_t{2} << 20;
  if (bytes <= 0) return {};
  const bool huge = bytes >= 2 * kHugePage;
  const int64_t alignment = huge ? kHugePage : 64;
  void* p = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (!p) throw std::bad_alloc();
#if defined(__linux__)
  // Page faults of small pages cost more than packing into them.
  if (huge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  return Workspace(static_cast<std::byte*>(p));
}

}  // namespace lck
