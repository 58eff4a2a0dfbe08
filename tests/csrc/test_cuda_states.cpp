// The CUDA kernels of merge_attention_states, run on the host, against the CPU's kernels in every dtype.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/states/kernels.h"
#include "cuda/states/run.h"
#include "cuda_launch.h"
#include "states_problem.h"
#include "tensor.h"

namespace {

using lck::DType;
using lck::GpuStates;
using lck::HeadsTensor;
using lck::Isa;
using lck::StatesParams;
using lck::test::SimtLaunch;

// A problem in another dtype: the values of the fp32 one, in memory of exactly their size.
struct Side {
  lck::test::StatesProblem problem;
  DType dtype;
  std::vector<std::vector<std::byte>> memory;

  Side(const lck::test::StatesProblem& from, DType dtype) : problem(from), dtype(dtype) {
    StatesParams& p = problem.params;
    problem.tensors.resize(0);
    const auto add = [&](const std::vector<float>& x, bool is_lse) {
      const DType type = is_lse ? lck::test::accumulator_of(dtype) : dtype;
      memory.emplace_back(x.size() * lck::element_bytes(type));
      for (size_t i = 0; i < x.size(); ++i) {
        lck::test::store(type, x[i], memory.back().data() + i * lck::element_bytes(type));
      }
      return memory.back().data();
    };
    for (auto* xs : {&problem.outs, &problem.douts}) {
      for (size_t n = 0; n < xs->size(); ++n) {
        problem.tensors.push_back(problem.heads_tensor(add((*xs)[n], false), n % 2));
      }
    }
    for (auto* xs : {&problem.lses, &problem.dlses}) {
      for (const auto& x : *xs) problem.tensors.push_back(problem.lse_tensor(add(x, true)));
    }
    p.outs = problem.tensors.data(), p.douts = p.outs + p.num_states;
    p.lses = p.douts + p.num_states, p.dlses = p.lses + p.num_states;
    p.out.data = add(problem.out, false), p.dout.data = add(problem.dout, false);
    p.lse.data = add(problem.lse, true), p.dlse.data = add(problem.dlse, true);
  }

  GpuStates on_gpu() const {
    GpuStates states{};
    for (int64_t n = 0; n < problem.params.num_states; ++n) {
      states.outs[n] = problem.params.outs[n], states.lses[n] = problem.params.lses[n];
      states.douts[n] = problem.params.douts[n], states.dlses[n] = problem.params.dlses[n];
    }
    return states;
  }
};

void check_near(const Side& got, const Side& want, const std::string& what) {
  const int64_t num_states = got.problem.params.num_states;
  for (size_t n = 0; n < got.memory.size(); ++n) {
    // outs, douts; lses, dlses; out, dout; lse, dlse
    const bool is_lse =
        (static_cast<int64_t>(n) >= 2 * num_states && static_cast<int64_t>(n) < 4 * num_states) ||
        n >= got.memory.size() - 2;
    const DType type = is_lse ? lck::test::accumulator_of(got.dtype) : got.dtype;
    const double near = lck::test::tolerance_of(type);
    const int64_t size = lck::element_bytes(type);
    for (size_t i = 0; i < got.memory[n].size(); i += size) {
      const double x = lck::test::load(type, got.memory[n].data() + i);
      const double y = lck::test::load(type, want.memory[n].data() + i);
      if (lck::test::near(x, y, near * (1 + std::fabs(y))) || (std::isnan(x) && std::isnan(y))) continue;
      std::fprintf(stderr, "%s: tensor %zu, element %zu is %g, should be %g\n", what.c_str(), n, i / size, x,
                   y);
      std::exit(1);
    }
  }
}

void check(int64_t num_states, int64_t batch, int64_t seqlen, int64_t heads, int64_t dim, DType dtype) {
  const std::string what = std::to_string(num_states) + " states, dim " + std::to_string(dim) + ", dtype " +
                           std::to_string(static_cast<int>(dtype));
  lck::test::StatesProblem problem(num_states, batch, seqlen, heads, dim);
  if (num_states == 2) {  // a state with weight 0 is not read
    std::fill(problem.lses[1].begin(), problem.lses[1].end(), -INFINITY);
    std::fill(problem.outs[1].begin(), problem.outs[1].end(), NAN);
  }
  Side got(problem, dtype), want(problem, dtype);
  const lck::StatesKernels& cpu = lck::states_kernels(Isa::kGeneric, dtype);
  want.problem.run(cpu.forward);
  lck::with_states_run(dtype, got.problem.params, got.on_gpu(),
                       [&](auto run) { run.forward(got.problem.params, got.on_gpu(), SimtLaunch{}); });
  check_near(got, want, "forward, " + what);
  // The same out and lse on both sides: their last bits may differ.
  for (const size_t from_end : {4, 2}) {
    auto& mine = got.memory[got.memory.size() - from_end];
    const auto& theirs = want.memory[want.memory.size() - from_end];
    std::copy(theirs.begin(), theirs.end(), mine.begin());
  }
  want.problem.run(cpu.backward);
  lck::with_states_run(dtype, got.problem.params, got.on_gpu(),
                       [&](auto run) { run.backward(got.problem.params, got.on_gpu(), SimtLaunch{}); });
  check_near(got, want, "backward, " + what);
}

}  // namespace

int main() {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
    if (lck::test::kFewCases && dtype != DType::kBFloat16) continue;
    for (const int64_t dim : {0, 1, 3, 16, 64, 136, 200}) {
      for (const int64_t num_states : {1, 2, 5}) check(num_states, 2, 19, 3, dim, dtype);
    }
    check(lck::kMaxStates, 1, 7, 2, 32, dtype);
    check(2, 3, 1, 1, 256, dtype);
  }
  std::puts("test_cuda_states: ok");
}
