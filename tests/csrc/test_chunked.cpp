// Chunked attention without torch, forward and backward: every instruction set and dtype against plain loops,
// on several threads, and with segments outside the tensors.
#include <cstdio>
#include <string>

#include "check.h"
#include "chunked_problem.h"
#include "threads.h"

namespace {

using lck::DType;
using lck::Isa;
using lck::test::check_near;
using lck::test::Sums;
using lck::test::Tensor;
using Case = lck::test::ChunkedCase;
using Problem = lck::test::ChunkedProblem;
template <typename R>
using Results = lck::test::ChunkedResults<R>;

void check(const Case& c, DType dtype) {
  const Problem problem(c, dtype);
  const Results<Sums> want = problem.expected();
  const double near = lck::test::tolerance_of(dtype);
  for (int i = 0; i <= static_cast<int>(lck::detected_isa()); ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (isa == Isa::kAvx512Bf16 && dtype != DType::kBFloat16) continue;  // the same kernels as kAvx512
    const std::string what = std::string(c.name) + ", dtype " + std::to_string(static_cast<int>(dtype)) +
                             ", " + std::string(lck::isa_name(isa));
    lck::test::set_num_threads(3);
    const Results<Tensor> got = problem.run(isa);
    check_near(what.c_str(), "out", got.out, want.out, near);
    check_near(what.c_str(), "dq", got.dq, want.dq, near);
    check_near(what.c_str(), "dk", got.dk, want.dk, near);
    check_near(what.c_str(), "dv", got.dv, want.dv, near);
    check_near(what.c_str(), "extra out", got.extra_out, want.extra_out, near);
    if (c.extra_gradient) check_near(what.c_str(), "extra dq", got.extra_dq, want.extra_dq, near);
    check_near(what.c_str(), "extra dk", got.extra_dk, want.extra_dk, near);
    check_near(what.c_str(), "extra dv", got.extra_dv, want.extra_dv, near);
    if (c.row_dots) check_near(what.c_str(), "row dots", got.row_dots, want.row_dots, near);
    lck::test::set_num_threads(1);
    const Results<Tensor> alone = problem.run(isa);
    const auto same = [](const Tensor& a, const Tensor& b) { return a.memory == b.memory; };
    CHECK(same(alone.out, got.out) && same(alone.dq, got.dq) && same(alone.dk, got.dk) &&
          same(alone.dv, got.dv));
    CHECK(same(alone.extra_out, got.extra_out) && same(alone.extra_dq, got.extra_dq) &&
          same(alone.extra_dk, got.extra_dk) && same(alone.extra_dv, got.extra_dv));
    CHECK(same(alone.row_dots, got.row_dots));
  }
}

}  // namespace

int main() {
  for (const Case& c : lck::test::chunked_cases()) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
      check(c, dtype);
    }
  }
  std::puts("test_chunked: ok");
}
