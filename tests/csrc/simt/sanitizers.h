// The sanitizers' hooks, null in a build without them: the runtime itself is never instrumented.
#pragma once

#include <cstddef>

extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, size_t) __attribute__((weak));
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) __attribute__((weak));
void __asan_poison_memory_region(const volatile void*, size_t) __attribute__((weak));
void __asan_unpoison_memory_region(const volatile void*, size_t) __attribute__((weak));
void __asan_loadN(const void*, size_t) __attribute__((weak));
void __asan_storeN(const void*, size_t) __attribute__((weak));
void* __tsan_get_current_fiber() __attribute__((weak));
void* __tsan_create_fiber(unsigned) __attribute__((weak));
void __tsan_destroy_fiber(void*) __attribute__((weak));
void __tsan_switch_to_fiber(void*, unsigned) __attribute__((weak));
void __tsan_set_fiber_name(void*, const char*) __attribute__((weak));
void __tsan_read_range(void*, size_t) __attribute__((weak));
void __tsan_write_range(void*, size_t) __attribute__((weak));
void __tsan_acquire(void*) __attribute__((weak));
void __tsan_release(void*) __attribute__((weak));
}

namespace simt {

inline bool thread_sanitizer() {
  return __tsan_create_fiber != nullptr;
}

// Happens-before: writes before a release of a key are visible after an acquire of it.
inline void release(void* key) {
  if (__tsan_release) __tsan_release(key);
}
inline void acquire(void* key) {
  if (__tsan_acquire) __tsan_acquire(key);
}

}  // namespace simt
