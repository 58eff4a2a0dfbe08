// Which probabilities of a fragment dropout keeps. One random draw is for four keys, which are in two or four
// lanes: each lane draws for one row or query of the group, and the lanes exchange the results.
#pragma once

#include "cuda/attention/gpu_params.h"
#include "cuda/ptx.cuh"
#include "philox.h"

namespace lck {

// What draws depend on besides the indices of keys and queries.
struct DropoutRule {
  uint64_t seed;
  int64_t head, sequence;
  uint32_t threshold;

  __device__ __forceinline__ static DropoutRule of(const GpuAttentionParams& a, const Sequence& sequence,
                                                   int64_t head) {
    return {a.seed ? static_cast<uint64_t>(*a.seed) : 0, head, sequence.index, a.p.dropout_threshold};
  }

  // Bit c: key j / 4 * 4 + c is kept for the query at `position`.
  __device__ __forceinline__ uint32_t kept(int j, int64_t position) const {
    const Draws draws = dropout_draws(j, position, head, sequence, seed);
    uint32_t bits = 0;
#pragma unroll
    for (int c = 0; c < 4; ++c) bits |= static_cast<uint32_t>(draws.at[c] >= threshold) << c;
    return bits;
  }
};

// Whether the elements of a fragment are kept.
struct Kept {
  bool at[4];
};

// Of a fragment of queries by keys: `key` is that of the lane's element 0, `positions` are those of its two
// rows. The fragment's keys begin with a multiple of four.
__device__ __forceinline__ Kept kept_keys(const DropoutRule& rule, int key, const int64_t (&positions)[2]) {
  const bool odd = threadIdx.x % 2;
  const uint32_t mine = rule.kept(key, odd ? positions[1] : positions[0]);
  const uint32_t theirs = __shfl_xor_sync(0xffffffffu, mine, 1);
  const uint32_t first = (odd ? theirs : mine) >> key % 4, second = (odd ? mine : theirs) >> key % 4;
  return {{(first & 1) != 0, (first & 2) != 0, (second & 1) != 0, (second & 2) != 0}};
}

// Of a fragment of keys by queries: `keys` are those of the lane's two rows, `position` is that of element 0.
// The fragment's keys begin with a multiple of four.
__device__ __forceinline__ Kept kept_queries(const DropoutRule& rule, const int (&keys)[2],
                                             int64_t position) {
  const int member = threadIdx.x / 4 % 4;  // the lane draws for element `member`
  uint32_t bits = rule.kept(member < 2 ? keys[0] : keys[1], position + member % 2) << 4 * member;
  bits |= __shfl_xor_sync(0xffffffffu, bits, 4);
  bits |= __shfl_xor_sync(0xffffffffu, bits, 8);
  bits >>= keys[0] % 4;
  return {{(bits & 1) != 0, (bits & 0x10) != 0, (bits & 0x100) != 0, (bits & 0x1000) != 0}};
}

}  // namespace lck
