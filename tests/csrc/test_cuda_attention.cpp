// The CUDA kernels of windowed attention, run on the host, against plain loops: every head dim and feature.
#include <cstdio>

#include "check.h"
#include "cuda_attention_check.h"

namespace {

using lck::DType;
using lck::test::Case;

std::vector<Case> cases() {
  std::vector<Case> all = lck::test::attention_cases();
  // Scores of 10^9: an fp32 lse is not accurate enough for a backward.
  all.push_back({.name = "huge scores",
                 .seqlen_q = 40,
                 .seqlen_k = 200,
                 .dim = 64,
                 .dim_v = 64,
                 .window = {90, 60, 0, 0},
                 .steepness = 1e10,
                 .forward_only = true});
  // A softcap far above all scores has no effect.
  all.push_back(
      {.name = "wide softcap", .seqlen_q = 40, .seqlen_k = 90, .dim = 32, .dim_v = 32, .softcap = 1e6});
  for (const int64_t dim : {96, 128, 192}) {
    all.push_back({.name = "wide heads",
                   .seqlen_q = 150,
                   .seqlen_k = 170,
                   .dim = dim,
                   .dim_v = 64,
                   .window = {70, 3, 0, 0},
                   .bias_len = dim == 96 ? 30 : 0,
                   .bias_center = 12});
    all.push_back({.name = "clear tiles",
                   .seqlen_q = 270,
                   .seqlen_k = 540,
                   .heads = 1,
                   .dim = 8,
                   .dim_v = dim,
                   .window = {300, 100, 0, 0}});
  }
  return all;
}

}  // namespace

int main() {
  for (const Case& c : cases()) {
    if (!c.segment_ids.empty() || c.dim_v == 0) continue;  // left to Triton
    const bool few = c.dropout_p > 0 || !c.kv_mask.empty() || c.window.left == 17;
    if (lck::test::kFewCases && !few) continue;
    for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
      if (lck::test::kFewCases && dtype == DType::kFloat16) continue;
      lck::test::check_attention(
          lck::test::for_cuda(c), dtype,
          [](auto dtype, const auto& a, const auto& use) { lck::with_attention_run(dtype, a, use); });
    }
  }
  CHECK(simt::bank_conflicts == 0);
  std::puts("test_cuda_attention: ok");
}
