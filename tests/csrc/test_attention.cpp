// Windowed attention without torch, forward and backward: every instruction set and dtype against plain
// loops, on several threads.
#include <cstdio>
#include <string>

#include "attention_cases.h"
#include "check.h"
#include "threads.h"

namespace {

using lck::DType;
using lck::Isa;
using lck::test::Case;
using lck::test::Problem;
using lck::test::Results;
using lck::test::Sums;
using lck::test::Tensor;

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.memory == b.memory;
}

void check(const Case& c, DType dtype) {
  const Problem problem(c, dtype);
  const Results<Sums> want = problem.expected();
  const double near = lck::test::tolerance_of(dtype),
               near_lse = lck::test::tolerance_of(lck::test::accumulator_of(dtype));
  for (int i = 0; i <= static_cast<int>(lck::detected_isa()); ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (isa == Isa::kAvx512Bf16 && dtype != DType::kBFloat16) continue;  // the same kernels as kAvx512
    lck::test::set_num_threads(3);
    const Results<Tensor> got = problem.run(isa);
    const std::string what = std::string(c.name) + ", dtype " + std::to_string(static_cast<int>(dtype)) +
                             ", " + std::string(lck::isa_name(isa));
    lck::test::check_near(what.c_str(), "out", got.out, want.out, near);
    lck::test::check_near(what.c_str(), "lse", got.lse, want.lse, near_lse);
    lck::test::check_near(what.c_str(), "dq", got.dq, want.dq, near);
    lck::test::check_near(what.c_str(), "dk", got.dk, want.dk, near);
    lck::test::check_near(what.c_str(), "dv", got.dv, want.dv, near);
    lck::test::check_near(what.c_str(), "delta", got.delta, want.delta, near);
    if (c.bias_len) lck::test::check_near(what.c_str(), "dbias", got.dbias, want.dbias, near);
    if (c.sink_logits) lck::test::check_near(what.c_str(), "dsink", got.dsink, want.dsink, near);
    lck::test::set_num_threads(1);
    const Results<Tensor> alone = problem.run(isa);
    CHECK(same_bits(alone.out, got.out) && same_bits(alone.lse, got.lse) && same_bits(alone.dq, got.dq));
    CHECK(same_bits(alone.dk, got.dk) && same_bits(alone.dv, got.dv) && same_bits(alone.dbias, got.dbias));
    CHECK(same_bits(alone.dsink, got.dsink));
  }
}

}  // namespace

int main() {
  for (const Case& c : lck::test::attention_cases()) {
    for (const DType dtype : c.dtypes) check(c, dtype);
  }
  std::puts("test_attention: ok");
}
