// The host functions of the warp instructions against an independent source: CuTe's layouts of fragments
// (CUTLASS headers, only for this test). Without the headers it is skipped.
#if __has_include(<cute/atom/mma_traits_sm80.hpp>)
  #include <cute/tensor.hpp>
// CuTe's headers are first: ptx_host.h redefines CUDA's keywords.
  #include <cute/atom/copy_traits_sm75.hpp>
  #include <cute/atom/mma_traits_sm80.hpp>

  #include "check.h"
  #include "cuda/ptx.cuh"
  #include "cuda_launch.h"

namespace {

using lck::test::SimtLaunch;
using Atom = cute::MMA_Traits<cute::SM80_16x8x16_F32BF16BF16F32_TN>;

constexpr int kM = 16, kN = 8, kK = 16;
float a[kM * kK], b[kN * kK], c[kM * kN], d[kM * kN];  // columns of rows, as CuTe numbers them

// An integer that every 16-bit type represents.
template <typename T>
void load_pair(uint32_t& word, float low, float high) {
  word = lck::ptx::pack<T>(low, high);
}

template <typename T>
void multiply() {
  const int lane = static_cast<int>(threadIdx.x);
  const typename Atom::ALayout a_layout;
  const typename Atom::BLayout b_layout;
  const typename Atom::CLayout c_layout;
  uint32_t left[4], right[2];
  float sum[4];
  for (int i = 0; i < 4; ++i) load_pair<T>(left[i], a[a_layout(lane, 2 * i)], a[a_layout(lane, 2 * i + 1)]);
  for (int i = 0; i < 2; ++i) load_pair<T>(right[i], b[b_layout(lane, 2 * i)], b[b_layout(lane, 2 * i + 1)]);
  for (int i = 0; i < 4; ++i) sum[i] = c[c_layout(lane, i)];
  lck::ptx::mma_m16n8k16<T>(sum, left, right[0], right[1]);
  for (int i = 0; i < 4; ++i) d[c_layout(lane, i)] = sum[i];
}

template <typename T>
void check_product() {
  for (int i = 0; i < kM * kK; ++i) a[i] = static_cast<float>(i * 37 % 101 - 50);
  for (int i = 0; i < kN * kK; ++i) b[i] = static_cast<float>(i * 53 % 97 - 48);
  for (int i = 0; i < kM * kN; ++i) c[i] = static_cast<float>(i), d[i] = NAN;
  SimtLaunch{}(multiply<T>, 1, 32, 0);
  for (int m = 0; m < kM; ++m) {
    for (int n = 0; n < kN; ++n) {
      float want = c[m + kM * n];
      for (int k = 0; k < kK; ++k) want += a[m + kM * k] * b[n + kN * k];
      CHECK(d[m + kM * n] == want);
    }
  }
}

uint16_t read[2][32][8];

void read_matrices() {
  const int lane = static_cast<int>(threadIdx.x);
  auto* shared = reinterpret_cast<uint16_t*>(lck::ptx::dynamic_smem());
  for (int i = 0; i < 8; ++i) shared[8 * lane + i] = static_cast<uint16_t>(8 * lane + i);
  __syncwarp();
  uint32_t words[4];
  const uint32_t address = lck::ptx::smem_address(shared + 8 * lane);
  lck::ptx::ldmatrix_x4(words, address);
  std::memcpy(read[0][lane], words, sizeof(words));
  lck::ptx::ldmatrix_x4_trans(words, address);
  std::memcpy(read[1][lane], words, sizeof(words));
}

void check_matrices() {
  SimtLaunch{}(read_matrices, 1, 32, 512);
  const cute::Copy_Traits<cute::SM75_U32x4_LDSM_N>::DstLayout plain;
  const cute::Copy_Traits<cute::SM75_U16x8_LDSM_T>::DstLayout transposed;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 8; ++i) {
      CHECK(read[0][lane][i] == plain(lane, 16 * i) / 16);
      CHECK(read[1][lane][i] == transposed(lane, 16 * i) / 16);
    }
  }
}

}  // namespace

int main() {
  check_product<__nv_bfloat16>();
  check_product<__half>();
  check_matrices();
  std::puts("test_cuda_fragments: ok");
}
#else
  #include <cstdio>

int main() {
  std::puts("test_cuda_fragments: skipped, no CUTLASS headers (pip install nvidia-cutlass)");
  return 77;
}
#endif
