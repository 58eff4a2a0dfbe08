// Tiles of rows in shared memory, and their products on the matrix units.
//
// Fragments are those of mma.m16n8k16: lane l has rows l / 4 and l / 4 + 8 of 16, columns 2 (l % 4) and
// 2 (l % 4) + 1 of each 8.
#pragma once

#include "cuda/common/elements.cuh"

namespace lck {

inline constexpr int kChunk = 8;  // elements in 16 bytes, the size of one copy

// A tile of rows of kDim 16-bit elements.
template <int kDim>
struct SmemTile {
  static constexpr int kChunks = kDim / kChunk;
  // Odd in units of 16 bytes, so that eight rows of a column are in eight different groups of banks.
  static constexpr int kRowBytes = (kChunks + 1) * 16;
  static constexpr int bytes(int rows) { return rows * kRowBytes; }

  uint32_t base;
  __device__ __forceinline__ uint32_t at(int row, int chunk) const {
    return base + row * kRowBytes + chunk * 16;
  }
};

// The 16-byte units of a tile that one thread of a block copies: one column, every kRowsAtOnce-th row.
template <int kThreads, int kDim>
struct CopyPart {
  static constexpr unsigned kChunks = SmemTile<kDim>::kChunks, kRowsAtOnce = kThreads / kChunks;

  __device__ __forceinline__ static unsigned row() { return threadIdx.x / kChunks; }
  __device__ __forceinline__ static unsigned chunk() { return threadIdx.x % kChunks; }
  // The thread's first unit of rows that begin at `rows`.
  template <typename T>
  __device__ __forceinline__ static const T* of(const T* rows, int64_t row_stride) {
    return rows + row() * row_stride + chunk() * kChunk;
  }
};

// Copies kRows rows of `dims` elements, in this thread's group; zeros in further columns and in rows
// without valid(row), which are not read. `from`: the thread's first unit, see CopyPart.
template <int kRows, int kThreads, int kDim, typename T, typename Valid>
__device__ __forceinline__ void copy_part(const SmemTile<kDim>& tile, const T* from, int64_t row_stride,
                                          int dims, const Valid& valid) {
  using Part = CopyPart<kThreads, kDim>;
  if (kThreads % Part::kChunks && threadIdx.x >= Part::kRowsAtOnce * Part::kChunks) return;
  const bool in_row = static_cast<int>(Part::chunk() * kChunk) < dims;
  uint32_t to = tile.at(Part::row(), Part::chunk());
  constexpr unsigned kCopies = (kRows + Part::kRowsAtOnce - 1) / Part::kRowsAtOnce;
#pragma unroll 4  // unrolled completely, its addresses would use the registers of the loop around it
  for (unsigned n = 0; n < kCopies; ++n) {
    const unsigned row = Part::row() + n * Part::kRowsAtOnce;
    if (kRows % Part::kRowsAtOnce && row >= kRows) return;
    ptx::cp_async16(to, from, in_row && valid(row));
    from += Part::kRowsAtOnce * row_stride, to += Part::kRowsAtOnce * SmemTile<kDim>::kRowBytes;
  }
}

// The same with the first row of the tile.
template <int kRows, int kThreads, int kDim, typename T, typename Valid>
__device__ __forceinline__ void copy_rows(const SmemTile<kDim>& tile, const T* rows, int64_t row_stride,
                                          int dims, const Valid& valid) {
  copy_part<kRows, kThreads>(tile, CopyPart<kThreads, kDim>::of(rows, row_stride), row_stride, dims, valid);
}

// use(i, j, e) for every element of a lane's fragments, unrolled.
template <int kM, int kN, typename Use>
__device__ __forceinline__ void for_each_element(const Use& use) {
#pragma unroll
  for (int i = 0; i < kM; ++i) {
#pragma unroll
    for (int j = 0; j < kN; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) use(i, j, e);
    }
  }
}

// s (16 kM x 8 kN) = a b^T over kDim columns: 16 kM rows of a from a_row on, 8 kN rows of b from b_row on.
template <typename T, int kM, int kN, int kDim>
__device__ __forceinline__ void multiply_rows(float (&s)[kM][kN][4], const SmemTile<kDim>& a, int a_row,
                                              const SmemTile<kDim>& b, int b_row) {
  const int lane = threadIdx.x % 32;
  const uint32_t a_at = a.at(a_row + lane % 16, lane / 16);
  const uint32_t b_at = b.at(b_row + lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
  for (int i = 0; i < kM; ++i) {
#pragma unroll
    for (int j = 0; j < kN; ++j) s[i][j][0] = s[i][j][1] = s[i][j][2] = s[i][j][3] = 0;
  }
#pragma unroll(kM == 1 ? 2 : 1)  // unrolled completely, it has so many operands at once that others spill
  for (int k = 0; k < kDim / 16; ++k) {
    uint32_t left[kM][4];
#pragma unroll
    for (int i = 0; i < kM; ++i) {
      ptx::ldmatrix_x4(left[i], a_at + SmemTile<kDim>::bytes(16 * i) + 32 * k);
    }
#pragma unroll
    for (int j = 0; j < kN; j += 2) {
      uint32_t right[4];
      ptx::ldmatrix_x4(right, b_at + SmemTile<kDim>::bytes(8 * j) + 32 * k);
#pragma unroll
      for (int i = 0; i < kM; ++i) {
        ptx::mma_m16n8k16<T>(s[i][j], left[i], right[0], right[1]);
        ptx::mma_m16n8k16<T>(s[i][j + 1], left[i], right[2], right[3]);
      }
    }
  }
}

// out (16 kM x kDim) += p b: p (16 kM x 8 kN) in fp32 fragments, 8 kN rows of b from b_row on.
template <typename T, int kM, int kN, int kDim>
__device__ __forceinline__ void add_product(float (&out)[kM][kDim / 8][4], const float (&p)[kM][kN][4],
                                            const SmemTile<kDim>& b, int b_row) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < kN / 2; ++k) {
    uint32_t left[kM][4];
#pragma unroll
    for (int i = 0; i < kM; ++i) {
      const float (&low)[4] = p[i][2 * k], (&high)[4] = p[i][2 * k + 1];
      left[i][0] = ptx::pack<T>(low[0], low[1]), left[i][1] = ptx::pack<T>(low[2], low[3]);
      left[i][2] = ptx::pack<T>(high[0], high[1]), left[i][3] = ptx::pack<T>(high[2], high[3]);
    }
#pragma unroll
    for (int j = 0; j < kDim / 8; j += 2) {
      uint32_t right[4];
      ptx::ldmatrix_x4_trans(right, b.at(b_row + 16 * k + lane % 16, j + lane / 16));
#pragma unroll
      for (int i = 0; i < kM; ++i) {
        ptx::mma_m16n8k16<T>(out[i][j], left[i], right[0], right[1]);
        ptx::mma_m16n8k16<T>(out[i][j + 1], left[i], right[2], right[3]);
      }
    }
  }
}

// The sum or the maximum over the four lanes of a row.
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// The same factor for all rows.
template <int kM>
__device__ __forceinline__ void fill(float (&factor)[kM][2], float x) {
#pragma unroll
  for (int i = 0; i < kM; ++i) factor[i][0] = factor[i][1] = x;
}

// Stores rows of a warp, each times its factor, via the warp's own rows of a tile in shared memory; `to` is
// the first row of the block's tile, which has num_rows rows.
template <typename T, int kM, int kN8>
__device__ __forceinline__ void store_warp_rows(const float (&x)[kM][kN8][4], const float (&factor)[kM][2],
                                                const SmemTile<8 * kN8>& tile, T* to, int64_t row_stride,
                                                int64_t dims, int num_rows) {
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * kM;
#pragma unroll
  for (int i = 0; i < kM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int j = 0; j < kN8; ++j) {
        const uint32_t pair =
            ptx::pack<T>(x[i][j][2 * half] * factor[i][half], x[i][j][2 * half + 1] * factor[i][half]);
        ptx::store_shared(tile.at(warp_row + 16 * i + 8 * half + lane / 4, j) + 4 * (lane % 4), pair);
      }
    }
  }
  __syncwarp();
  const int chunks = static_cast<int>(dims) / kChunk;
  for (int i = lane; i < 16 * kM * chunks; i += 32) {
    const int row = warp_row + i / chunks, chunk = i % chunks;
    if (row >= num_rows) break;
    Vec<uint32_t, 16> bytes;
    ptx::load_shared(bytes.at, tile.at(row, chunk));
    store_vec(reinterpret_cast<uint32_t*>(to + row * row_stride + chunk * kChunk), bytes);
  }
}

}  // namespace lck
