// The test that tests/cuda_mutations.py runs on mutated kernels: one head dim, both variants, few cases.
#include <cstdio>

#include "cuda_attention_check.h"

namespace {

using lck::DType;
using lck::GpuAttentionParams;
using lck::test::Case;

const Case kCases[] = {
    // Some queries see all of the second tile of 128 keys, but from a key that is not the first of a step.
    {.name = "band", .seqlen_q = 230, .seqlen_k = 360, .dim = 64, .dim_v = 40, .window = {200, 30, 0, 0}},
    {.name = "steep", .seqlen_q = 40, .seqlen_k = 300, .heads = 1, .dim = 64, .dim_v = 64, .steepness = 50},
    {.name = "causal",
     .seqlen_q = 67,
     .seqlen_k = 67,
     .batch = 2,
     .heads = 4,
     .kv_heads = 2,
     .dim = 64,
     .dim_v = 64,
     .window = {-1, 0, 0, 0},
     .dlse = true,
     .nan_values = true,
     .kv_start = {0, 10}},
    {.name = "packed",
     .seqlen_q = 100,
     .seqlen_k = 130,
     .dim = 64,
     .dim_v = 64,
     .window = {40, 7, 0, 0},
     .cu_seqlens_q = {0, 5, 5, 70, 100},
     .cu_seqlens_k = {0, 0, 30, 95, 130}},
    // The first sequence begins after a tile's rows, which belong to no sequence.
    {.name = "packed, late",
     .seqlen_q = 200,
     .seqlen_k = 230,
     .dim = 64,
     .dim_v = 64,
     .cu_seqlens_q = {130, 135, 200},
     .cu_seqlens_k = {140, 170, 230}},
    // A query sees only its own key, which may be hidden.
    {.name = "hidden keys",
     .seqlen_q = 70,
     .seqlen_k = 70,
     .dim = 64,
     .dim_v = 64,
     .window = {0, 0, 0, 0},
     .nan_values = true,
     .kv_mask = lck::test::mask(70)},
    // The first key that is seen is an odd one.
    {.name = "full",
     .seqlen_q = 90,
     .seqlen_k = 201,
     .batch = 2,
     .dim = 64,
     .dim_v = 64,
     .window = {40, 0, 3, 0},
     .softcap = 0.8,
     .dropout_p = 0.3,
     .bias_len = 41,
     .bias_center = 35,
     .sink_logits = true,
     .dlse = true,
     .nan_values = true,
     .kv_start = {0, 20},
     .kv_end = {201, 170}},
};

template <typename Use>
void with_run(DType, const GpuAttentionParams& a, const Use& use) {
  lck::is_full(a) ? use(lck::AttentionRun<__nv_bfloat16, 64, true>{})
                  : use(lck::AttentionRun<__nv_bfloat16, 64, false>{});
}

}  // namespace

int main() {
  for (const Case& c : kCases) {
    lck::test::check_attention(lck::test::for_cuda(c), DType::kBFloat16,
                               [](auto dtype, const auto& a, const auto& use) { with_run(dtype, a, use); });
  }
  std::puts("mutation_attention: ok");
}
