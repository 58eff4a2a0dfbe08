// A problem of windowed attention on the CUDA kernels, run on the host, against plain loops.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "attention_cases.h"
#include "cuda/attention/run.h"
#include "cuda_launch.h"

namespace lck::test {

// Whether the kernels support a case: dims of whole 16 bytes, aligned rows.
inline Case for_cuda(Case c) {
  const auto round = [](int64_t dim) { return (dim + 7) / 8 * 8; };
  c.dim = round(c.dim), c.dim_v = round(c.dim_v);
  c.storage = aligned(c.storage);
  return c;
}

inline void fill_rows(Tensor& x, double value) {
  for (int64_t i = 0; i < x.batch * x.rows * x.heads; ++i) {
    x.set(i / (x.rows * x.heads), i / x.heads % x.rows, i % x.heads, value);
  }
}

// The gradient of one head's bias from all strips.
inline std::vector<double> sum_strips(const Tensor& strips, int64_t head) {
  std::vector<double> sum(strips.dim);
  for (int64_t i = 0; i < strips.batch * strips.heads; ++i) {
    const std::vector<double> part = strips.get(i / strips.heads, head, i % strips.heads);
    for (int64_t d = 0; d < strips.dim; ++d) sum[d] += part[d];
  }
  return sum;
}

// with_run(dtype, params, use) calls use(run) with the problem's AttentionRun.
template <typename WithRun>
void check_attention(const Case& c, DType dtype, const WithRun& with_run) {
  const Problem problem(c, dtype);
  const Results<Sums> want = problem.expected();
  GpuAttentionParams a{problem.params, problem.layout, nullptr};
  const int64_t seed = Problem::kSeed;
  if (c.dropout_p > 0) a.seed = &seed;
  Results<Tensor> got = problem.results(Storage::kAligned, &a.p);
  if (!c.cu_seqlens_q.empty()) {  // rows may belong to no sequence, which the backend sets before
    for (Tensor* x : {&got.out, &got.lse, &got.dq, &got.dk, &got.dv}) fill_rows(*x, 0);
  }
  Tensor strips;
  if (c.bias_len) {
    strips = Tensor(DType::kFloat32, c.batch, c.heads, bias_strips(a), c.bias_len, Storage::kAligned);
    std::fill(strips.memory.begin(), strips.memory.end(), std::byte{0});
    a.p.dbias = const_cast<void*>(strips.view.data);
  }
  with_run(dtype, a, [&](auto run) {
    run.forward(a, SimtLaunch{});
    if (!c.forward_only) run.backward(a, SimtLaunch{});
  });
  for (int64_t head = 0; c.bias_len && head < c.heads; ++head) {
    const std::vector<double> sum = sum_strips(strips, head);
    for (int64_t i = 0; i < c.bias_len; ++i) {
      store(DType::kFloat32, sum[i], got.dbias.place(0, head, 0, i));
    }
  }
  const std::string what = std::string(c.name) + ", dtype " + std::to_string(static_cast<int>(dtype));
  const double near = tolerance_of(dtype), near_lse = tolerance_of(DType::kFloat32);
  check_near(what.c_str(), "out", got.out, want.out, near);
  check_near(what.c_str(), "lse", got.lse, want.lse, near_lse);
  if (c.forward_only) return;
  check_near(what.c_str(), "delta", got.delta, want.delta, near);
  check_near(what.c_str(), "dq", got.dq, want.dq, near);
  check_near(what.c_str(), "dk", got.dk, want.dk, near);
  check_near(what.c_str(), "dv", got.dv, want.dv, near);
  if (c.bias_len) check_near(what.c_str(), "dbias", got.dbias, want.dbias, near);
}

}  // namespace lck::test
