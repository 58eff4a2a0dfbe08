#include "memory.h"

#include <sys/mman.h>

#include <stdexcept>

#include "fiber.h"
#include "sanitizers.h"

extern "C" {
extern char __start_simt_shared[] __attribute__((weak));
extern char __stop_simt_shared[] __attribute__((weak));
}

namespace simt {

namespace {

// The lowest shared address, so that no valid one is 0.
constexpr uint32_t kWindow = 1024;
constexpr size_t kStacksBytes = kMaxThreads * (kStackBytes + kGuardBytes);

char* map(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::runtime_error("simt: no memory");
  return static_cast<char*>(p);
}

void poison(volatile char* begin, volatile char* end) {
  for (; begin < end; ++begin) *begin = static_cast<char>(0xff);
}

size_t static_room() {
  return (static_smem_bytes() + 1023) / 1024 * 1024;
}

}  // namespace

size_t static_smem_bytes() {
  return __stop_simt_shared - __start_simt_shared;
}

void begin_memory() {
  // For ThreadSanitizer blocks are unordered: each has its own memory.
  if (!block.smem || thread_sanitizer()) {
    block.smem = map(kMaxSmemBytes + 4096);
    block.stacks = map(kStacksBytes);
    for (int i = 0; i < block.num_threads || (!thread_sanitizer() && i < kMaxThreads); ++i) {
      mprotect(block.stacks + i * (kStackBytes + kGuardBytes), kGuardBytes, PROT_NONE);
    }
  }
  if (__asan_unpoison_memory_region) {
    __asan_unpoison_memory_region(block.smem, kMaxSmemBytes);
    for (int i = 0; i < block.num_threads; ++i) {
      __asan_unpoison_memory_region(block.stacks + i * (kStackBytes + kGuardBytes) + kGuardBytes,
                                    kStackBytes);
    }
  }
  poison(block.smem, block.smem + block.smem_bytes);
  poison(__start_simt_shared, __stop_simt_shared);
  if (__asan_poison_memory_region) {
    __asan_poison_memory_region(block.smem + block.smem_bytes, kMaxSmemBytes - block.smem_bytes);
  }
}

void end_memory() {
  if (thread_sanitizer()) munmap(block.stacks, kStacksBytes);  // addresses of shared memory are not reused
}

void* dynamic_smem() {
  return block.smem;
}

uint32_t shared_address(const void* p) {
  const char* c = static_cast<const char*>(p);
  if (c >= __start_simt_shared && c < __stop_simt_shared) {
    return kWindow + static_cast<uint32_t>(c - __start_simt_shared);
  }
  if (c >= block.smem && c <= block.smem + block.smem_bytes) {
    return kWindow + static_cast<uint32_t>(static_room() + (c - block.smem));
  }
  fail("%p is not in shared memory", p);
}

char* from_shared(uint32_t address, uint32_t bytes, uint32_t align) {
  if (address % align) fail("shared address 0x%x is not %u-byte aligned", address, align);
  const size_t offset = size_t{address} - kWindow;
  if (address >= kWindow && offset + bytes <= static_smem_bytes()) return __start_simt_shared + offset;
  const size_t dynamic = offset - static_room();
  if (address < kWindow || offset < static_room() || dynamic + bytes > block.smem_bytes) {
    fail("shared access at 0x%x of %u bytes is outside the block's %zu", address, bytes, block.smem_bytes);
  }
  return block.smem + dynamic;
}

void note_read(const void* p, size_t bytes) {
  if (__asan_loadN) __asan_loadN(p, bytes);
  if (__tsan_read_range) __tsan_read_range(const_cast<void*>(p), bytes);
}

void note_write(void* p, size_t bytes) {
  if (__asan_storeN) __asan_storeN(p, bytes);
  if (__tsan_write_range) __tsan_write_range(p, bytes);
}

}  // namespace simt
