// The kernels of merge_attention_states without torch: every instruction set against plain loops, on buffers
// of exactly the tensors' size, so that a sanitizer reports accesses outside.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/states/kernels.h"
#include "params.h"
#include "states_problem.h"

namespace {

using lck::DType;
using lck::HeadsTensor;
using lck::Isa;
using lck::StatesParams;
using Problem = lck::test::StatesProblem;

constexpr float kInf = std::numeric_limits<float>::infinity();

const float* at(const HeadsTensor& x, int64_t batch, int64_t query, int64_t head) {
  return static_cast<const float*>(x.data) + batch * x.batch_stride + query * x.row_stride +
         head * x.head_stride;
}

bool near(double got, double want) {
  return got == want || std::abs(got - want) <= 1e-5 * (1 + std::abs(want));
}

// Calls body(batch, query, head, weights, merged lse) for every row; weights are 0 for a row without keys.
template <typename Body>
void each_row(const StatesParams& p, const Body& body) {
  for (int64_t row = 0; row < p.batch * p.seqlen * p.num_heads; ++row) {
    const int64_t head = row % p.num_heads, query = row / p.num_heads % p.seqlen;
    const int64_t batch = row / (p.num_heads * p.seqlen);
    double total = 0;
    std::vector<double> weights;
    for (int64_t n = 0; n < p.num_states; ++n) {
      weights.push_back(std::exp(static_cast<double>(*at(p.lses[n], batch, query, head))));
      total += weights.back();
    }
    for (double& weight : weights) weight = total > 0 ? weight / total : 0;
    body(batch, query, head, weights, total > 0 ? std::log(total) : -kInf);
  }
}

void check_forward(Isa isa, Problem problem, bool stream) {
  StatesParams& p = problem.params;
  p.stream_out = stream;
  problem.run(lck::states_kernels(isa, DType::kFloat32).forward);
  each_row(p,
           [&](int64_t batch, int64_t query, int64_t head, const std::vector<double>& weights, double lse) {
             CHECK(near(*at(p.lse, batch, query, head), lse));
             for (int64_t d = 0; d < p.head_dim; ++d) {
               double want = 0;
               for (int64_t n = 0; n < p.num_states; ++n)
                 want += weights[n] * at(p.outs[n], batch, query, head)[d];
               CHECK(near(at(p.out, batch, query, head)[d], want));
             }
           });
}

void check_backward(Isa isa, Problem problem, bool stream) {
  StatesParams& p = problem.params;
  const lck::StatesKernels& kernels = lck::states_kernels(isa, DType::kFloat32);
  problem.run(kernels.forward);
  p.stream_out = stream;
  problem.run(kernels.backward);
  each_row(p, [&](int64_t batch, int64_t query, int64_t head, const std::vector<double>& weights, double) {
    for (int64_t n = 0; n < p.num_states; ++n) {
      double dlse = *at(p.dlse, batch, query, head);
      for (int64_t d = 0; d < p.head_dim; ++d) {
        const double dout = at(p.dout, batch, query, head)[d];
        CHECK(near(at(p.douts[n], batch, query, head)[d], weights[n] * dout));
        dlse += dout * (at(p.outs[n], batch, query, head)[d] - at(p.out, batch, query, head)[d]);
      }
      CHECK(std::abs(*at(p.dlses[n], batch, query, head) - weights[n] * dlse) < 1e-4);
    }
  });
}

// The values of a state with weight 0 are not read.
void check_unread(Isa isa) {
  Problem problem(2, 1, 20, 2, 37);
  std::fill(problem.lses[1].begin(), problem.lses[1].end(), -kInf);
  std::fill(problem.outs[1].begin(), problem.outs[1].end(), NAN);
  const lck::StatesKernels& kernels = lck::states_kernels(isa, DType::kFloat32);
  problem.run(kernels.forward);
  problem.run(kernels.backward);
  const auto finite = [](const std::vector<float>& x) {
    return std::all_of(x.begin(), x.end(), [](float value) { return std::isfinite(value); });
  };
  CHECK(finite(problem.out) && finite(problem.douts[0]) && finite(problem.dlses[1]));
  for (const float value : problem.douts[1]) CHECK(value == 0);
}

// Two threads on two ranges of tiles have the results of one thread; ThreadSanitizer checks every access.
void check_threads(Isa isa) {
  Problem one(3, 2, 50, 3, 24), two(3, 2, 50, 3, 24);
  const lck::StatesKernels& kernels = lck::states_kernels(isa, DType::kFloat32);
  for (const lck::StatesKernel kernel : {kernels.forward, kernels.backward}) {
    one.run(kernel);
    const int64_t tiles = lck::num_state_tiles(two.params);
    const auto part = [&](int64_t begin, int64_t end) {
      auto memory = two.scratch();
      kernel(two.params, begin, end, memory.data());
    };
    std::thread other(part, tiles / 2, tiles);
    part(0, tiles / 2);
    other.join();
  }
  CHECK(one.out == two.out && one.lse == two.lse && one.douts == two.douts && one.dlses == two.dlses);
}

// Every dtype on rows of exactly its size, for the sanitizers.
void check_memory(Isa isa, DType dtype, int64_t bytes) {
  for (const int64_t dim : {0, 1, 7, 16, 33, 100}) {
    Problem problem(3, 2, 18, 2, dim);
    StatesParams& p = problem.params;
    const int64_t rows = p.batch * p.seqlen * p.num_heads;
    const int64_t lse_bytes = dtype == DType::kFloat64 ? 8 : 4;
    std::vector<std::vector<std::byte>> memory;
    for (HeadsTensor& x : problem.tensors) {
      const bool is_lse = &x >= p.lses && &x < p.lses + 2 * p.num_states;
      memory.emplace_back(is_lse ? rows * lse_bytes : rows * dim * bytes);
      x.data = memory.back().data();
    }
    for (HeadsTensor* x : {&p.out, &p.dout, &p.lse, &p.dlse}) {
      memory.emplace_back(x == &p.lse || x == &p.dlse ? rows * lse_bytes : rows * dim * bytes);
      x->data = memory.back().data();
    }
    for (const bool stream : {false, true}) {
      p.stream_out = stream;
      problem.run(lck::states_kernels(isa, dtype).forward);
      problem.run(lck::states_kernels(isa, dtype).backward);
    }
  }
}

}  // namespace

int main() {
  for (int i = 0; i <= static_cast<int>(lck::detected_isa()); ++i) {
    const Isa isa = static_cast<Isa>(i);
    for (const int64_t dim : {1, 3, 16, 40, 64, 131}) {
      for (const bool stream : {false, true}) {
        for (const int64_t num_states : {1, 2, 5}) {
          check_forward(isa, Problem(num_states, 2, 19, 3, dim), stream);
          check_backward(isa, Problem(num_states, 2, 19, 3, dim), stream);
        }
        check_forward(isa, Problem(2, 1, 1, 1, dim), stream);
        check_backward(isa, Problem(2, 3, 16, 2, dim), stream);
      }
    }
    check_memory(isa, DType::kFloat32, 4);
    check_memory(isa, DType::kBFloat16, 2);
    check_memory(isa, DType::kFloat16, 2);
    check_memory(isa, DType::kFloat64, 8);
    check_unread(isa);
    check_threads(isa);
  }
  std::puts("test_states: ok");
}
