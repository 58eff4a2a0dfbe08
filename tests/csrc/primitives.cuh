// Every warp instruction of csrc/cuda/ptx.cuh on numbers that all 16-bit types represent: the host
// functions (test_cuda_primitives.cpp) and a GPU (gpu_primitives.cu) must return the same bits.
#pragma once

#include <cstdio>
#include <vector>

#include "cuda/ptx.cuh"

namespace lck::test {

inline constexpr int kPrimitives = 9, kWordsALane = 4, kPrimitiveSmemBytes = 2048;
inline constexpr const char* kPrimitiveNames[kPrimitives] = {
    "ldmatrix",          "ldmatrix.trans", "mma bf16", "mma f16", "cp.async",
    "cp.async of zeros", "pack bf16, f16", "ex2, rcp", "shfl",
};

// An integer from -8 to 7, a function of the index.
__device__ inline float number_at(int place) {
  return static_cast<float>(place * 37 % 16 - 8);
}

__device__ inline uint32_t bits_of(float x) {
  union {
    float value;
    uint32_t bits;
  } both;
  both.value = x;
  return both.bits;
}

template <typename T>
__device__ inline void multiply_numbers(uint32_t (&words)[kWordsALane], int lane) {
  uint32_t a[4];
  float d[4];
  for (int i = 0; i < 4; ++i) {
    a[i] = ptx::pack<T>(number_at(8 * lane + 2 * i), number_at(8 * lane + 2 * i + 1));
    d[i] = number_at(4 * lane + i + 3);
  }
  const uint32_t b0 = ptx::pack<T>(number_at(5 * lane), number_at(5 * lane + 1));
  const uint32_t b1 = ptx::pack<T>(number_at(7 * lane + 2), number_at(7 * lane + 3));
  ptx::mma_m16n8k16<T>(d, a, b0, b1);
  for (int i = 0; i < 4; ++i) words[i] = bits_of(d[i]);
}

// Grid: one warp. out (kPrimitives, 32, kWordsALane); from (1024 bytes), aligned to 16.
__global__ void primitives(const uint32_t* from, uint32_t* out) {
  const int lane = static_cast<int>(threadIdx.x);
  char* smem = ptx::dynamic_smem();
  const uint32_t mine = ptx::smem_address(smem + 16 * lane),
                 copied = ptx::smem_address(smem + 1024 + 16 * lane);
  for (int i = 0; i < 4; ++i)
    ptx::store_shared(mine + 4 * i, static_cast<uint32_t>((8 * lane + 2 * i) * 0x10001 + 0x10000));
  __syncwarp();
  uint32_t words[kPrimitives][kWordsALane] = {};
  ptx::ldmatrix_x4(words[0], mine);
  ptx::ldmatrix_x4_trans(words[1], mine);
  multiply_numbers<__nv_bfloat16>(words[2], lane);
  multiply_numbers<__half>(words[3], lane);
  ptx::cp_async16(copied, from + 4 * lane, true);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  float loaded[4];
  ptx::load_shared(loaded, copied);
  for (int i = 0; i < 4; ++i) words[4][i] = bits_of(loaded[i]);
  ptx::cp_async16(copied, from, false);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  ptx::load_shared(words[5], copied);
  // Values between two of the type: rounding to nearest, ties to even.
  const float between = number_at(lane) + 1.0f / 256 + static_cast<float>(lane) / 4096;
  words[6][0] = ptx::pack<__nv_bfloat16>(between, -between),
  words[6][1] = ptx::pack<__half>(between, 3 * between);
  words[7][0] = bits_of(ptx::exp2_approx(static_cast<float>(lane - 16)));
  words[7][1] = bits_of(ptx::exp2_approx(-INFINITY)), words[7][2] = bits_of(ptx::exp2_approx(-140.0f));
  words[7][3] = bits_of(ptx::reciprocal_approx(ptx::exp2_approx(static_cast<float>(lane - 16))));
  words[8][0] = __shfl_xor_sync(0xffffffffu, words[0][0], 5);
  words[8][1] = __ballot_sync(0xffffffffu, lane % 3 == 0);
  for (int n = 0; n < kPrimitives; ++n) {
    for (int i = 0; i < kWordsALane; ++i) out[(n * 32 + lane) * kWordsALane + i] = words[n][i];
  }
}

// The source of the copies of primitives().
inline std::vector<uint32_t> primitive_words() {
  std::vector<uint32_t> words(256);
  for (uint32_t i = 0; i < words.size(); ++i) words[i] = i * 2654435761u;
  return words;
}

// A line for each primitive: its name and all bits.
inline void print_primitives(const uint32_t* out) {
  for (int n = 0; n < kPrimitives; ++n) {
    std::printf("%s:", kPrimitiveNames[n]);
    for (int i = 0; i < 32 * kWordsALane; ++i) std::printf(" %08x", out[n * 32 * kWordsALane + i]);
    std::printf("\n");
  }
}

}  // namespace lck::test
