// The functions of csrc/cuda/ptx.cuh on the host: the same names, signatures and results.
#pragma once

#include "builtins.h"

namespace lck::ptx {

inline char* dynamic_smem() {
  return static_cast<char*>(simt::dynamic_smem());
}
inline uint32_t smem_address(const void* p) {
  return simt::shared_address(p);
}

// The destination is NaN from the issue to the wait, which stores the data: this detects a missing wait, and
// a copy into memory that others still read. In random schedules some data is stored at once: this detects a
// stage that is used twice.
void cp_async16(uint32_t to, const void* from, bool valid);
inline void cp_async_commit() {
  simt::commit_copies();
}
void cp_async_wait_for(unsigned groups_in_flight);
template <int kInFlight>
void cp_async_wait() {
  cp_async_wait_for(kInFlight);
}

void store_shared(uint32_t address, uint32_t value);
void store_shared(uint32_t address, float value);
float load_shared_float(uint32_t address);
void load_shared(uint32_t (&r)[4], uint32_t address);
void load_shared(uint32_t (&r)[2], uint32_t address);
void load_shared(float (&r)[4], uint32_t address);
void ldmatrix_x4(uint32_t (&r)[4], uint32_t address);
void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address);

using Convert = float (*)(uint16_t);
float bfloat16_value(uint16_t bits);
float half_value(uint16_t bits);
void mma_m16n8k16_of(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Convert value);
template <typename T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma_m16n8k16_of(d, a, b0, b1, std::is_same_v<T, __half> ? half_value : bfloat16_value);
}

inline float exp2_approx(float x) {
  const float y = std::exp2(x);
  return y < 1.17549435e-38f ? 0.0f : y;
}

inline float reciprocal_approx(float x) {
  const float y = 1 / x;
  return std::fabs(y) < 1.17549435e-38f ? 0.0f : y;
}

uint32_t pack_bfloat16(float low, float high);
uint32_t pack_half(float low, float high);
template <typename T>
uint32_t pack(float low, float high) {
  return std::is_same_v<T, __half> ? pack_half(low, high) : pack_bfloat16(low, high);
}

}  // namespace lck::ptx
