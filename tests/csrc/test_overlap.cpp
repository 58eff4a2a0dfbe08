// The kernels of overlap_merge and overlap_split without torch: every instruction set against plain loops, on
// buffers of exactly the tensors' size, so that a sanitizer reports accesses outside.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/overlap/kernels.h"
#include "overlap_problem.h"
#include "params.h"

namespace {

using lck::DType;
using lck::Isa;
using lck::OverlapParams;
using lck::Segment;
using lck::WeightMode;
using Problem = lck::test::OverlapProblem;

double weight(const Problem& problem, const Segment& s, int32_t u) {
  const int32_t left = s.starts_document ? s.length : u + 1,
                right = s.ends_document ? s.length : s.length - u;
  const double m = std::min(left, right);
  switch (problem.params.mode) {
    case WeightMode::kTriangular:
      return m;
    case WeightMode::kHann:
      return std::pow(std::sin(M_PI * m / (2.0 * (s.length + 1))), 2);
    case WeightMode::kExplicit:
      return problem.weights[s.row * problem.params.chunk_len + s.col + u];
    default:
      return 1;
  }
}

double weight_sum(const Problem& problem, int64_t position) {
  double sum = 0;
  for (const Segment& s : problem.segments) {
    const int64_t u = position - s.start;
    if (u >= 0 && u < s.length) sum += weight(problem, s, static_cast<int32_t>(u));
  }
  return problem.params.mode == WeightMode::kAdd ? 1 : sum;
}

bool near(double x, double y) {
  return std::abs(x - y) <= 2e-5 * std::max(1.0, std::abs(y));
}

void check_gather(Isa isa, Problem problem, bool stream) {
  OverlapParams& p = problem.params;
  p.stream_out = stream;
  std::fill(problem.sequence.begin(), problem.sequence.end(), NAN);
  auto scratch = problem.scratch();
  CHECK(lck::overlap_kernels(isa, DType::kFloat32).gather(p, 0, p.num_tiles, scratch.data()) == -1);
  for (int64_t t = 0; t < p.total_len; ++t) {
    const double sum = weight_sum(problem, t);
    for (int64_t d = 0; d < p.dim; ++d) {
      double expected = 0;
      for (const Segment& s : problem.segments) {
        const int64_t u = t - s.start;
        if (u < 0 || u >= s.length) continue;
        const float x = problem.chunks[(s.row * p.chunk_len + s.col + u) * p.dim + d];
        expected += weight(problem, s, static_cast<int32_t>(u)) / sum * x;
      }
      CHECK(near(problem.sequence[t * p.dim + d], expected));
    }
  }
}

void check_scatter(Isa isa, Problem problem, bool stream) {
  OverlapParams& p = problem.params;
  p.stream_out = stream;
  std::fill(problem.chunks.begin(), problem.chunks.end(), NAN);
  auto scratch = problem.scratch();
  const lck::OverlapKernels& kernels = lck::overlap_kernels(isa, DType::kFloat32);
  kernels.scatter(p, 0, p.num_tiles, scratch.data());
  kernels.fill(p, 0, p.num_segments);
  for (const Segment& s : problem.segments) {
    for (int64_t column = 0; column < p.chunk_len; ++column) {
      const int64_t u = column - s.col;
      const bool covered = u >= 0 && u < s.length;
      const double normalized =
          covered ? weight(problem, s, static_cast<int32_t>(u)) / weight_sum(problem, s.start + u) : 0;
      for (int64_t d = 0; d < p.dim; ++d) {
        const double row = covered ? problem.sequence[(s.start + u) * p.dim + d] : 0;
        CHECK(near(problem.chunks[(s.row * p.chunk_len + column) * p.dim + d], normalized * row));
      }
    }
  }
}

// Two threads on two ranges of tiles have the results of one thread; ThreadSanitizer checks every access.
void check_threads(Isa isa) {
  Problem one(500, 65, 32, 24, WeightMode::kHann), two(500, 65, 32, 24, WeightMode::kHann);
  const lck::OverlapKernels& kernels = lck::overlap_kernels(isa, DType::kFloat32);
  auto scratch = one.scratch();
  const auto both = [](const lck::OverlapKernel kernel, Problem& problem) {
    const int64_t half = problem.params.num_tiles / 2;
    std::thread other([&] {
      auto own = problem.scratch();
      kernel(problem.params, half, problem.params.num_tiles, own.data());
    });
    auto own = problem.scratch();
    kernel(problem.params, 0, half, own.data());
    other.join();
  };
  kernels.gather(one.params, 0, one.params.num_tiles, scratch.data());
  both(kernels.gather, two);
  CHECK(one.sequence == two.sequence);
  kernels.scatter(one.params, 0, one.params.num_tiles, scratch.data());
  both(kernels.scatter, two);
  CHECK(one.chunks == two.chunks);
}

// The gradient of the weights against central differences of sum(dout * merged).
void check_weight_grad(Isa isa) {
  Problem problem(90, 33, 20, 19, WeightMode::kExplicit);
  OverlapParams& p = problem.params;
  std::vector<float> dweights(problem.weights.size(), 0.0f);
  p.dweights = dweights.data();
  auto scratch = problem.scratch();
  lck::overlap_kernels(isa, DType::kFloat32).weight_grad(p, 0, p.num_tiles, scratch.data());
  const auto value = [&] {
    double total = 0;
    for (int64_t t = 0; t < p.total_len; ++t) {
      const double sum = weight_sum(problem, t);
      for (const Segment& s : problem.segments) {
        const int64_t u = t - s.start;
        if (u < 0 || u >= s.length) continue;
        for (int64_t d = 0; d < p.dim; ++d) {
          total += weight(problem, s, static_cast<int32_t>(u)) / sum * problem.sequence[t * p.dim + d] *
                   problem.chunks[(s.row * p.chunk_len + s.col + u) * p.dim + d];
        }
      }
    }
    return total;
  };
  for (const int64_t entry : {int64_t{1}, int64_t{25}, int64_t{33 + 5}, int64_t{33 + 30}}) {
    float& w = problem.weights[entry];
    const float kept = w, step = 1e-2f;
    w = kept + step;
    const double above = value();
    w = kept - step;
    const double below = value();
    w = kept;
    CHECK(std::abs(dweights[entry] - (above - below) / (2 * step)) < 2e-2 * (1 + std::abs(dweights[entry])));
  }
}

void check_bad_weights(Isa isa) {
  Problem problem(90, 33, 20, 4, WeightMode::kExplicit);
  auto scratch = problem.scratch();
  const auto gather = lck::overlap_kernels(isa, DType::kFloat32).gather;
  problem.weights[1 + 3] = 0;
  CHECK(gather(problem.params, 0, problem.params.num_tiles, scratch.data()) == 3);
  problem.weights[1 + 3] = NAN;
  CHECK(gather(problem.params, 0, problem.params.num_tiles, scratch.data()) == 3);
  problem.weights[1 + 3] = 1;
  problem.weights[33 + 1 + 5] = -1;
  CHECK(gather(problem.params, 0, problem.params.num_tiles, scratch.data()) == 25);
}

// Every dtype on rows of exactly its size, for the sanitizers; two elements between rows.
void check_memory(Isa isa, DType dtype, int64_t bytes) {
  for (const int64_t dim : {1, 7, 16, 33, 100}) {
    Problem problem(150, 40, 20, dim, WeightMode::kCrop);
    OverlapParams& p = problem.params;
    std::vector<std::byte> chunks(p.num_chunks * p.chunk_len * dim * bytes),
        sequence(p.total_len * dim * bytes);
    std::vector<double> table(p.num_chunks * p.chunk_len, 1.0), dtable(table);
    p.chunks = chunks.data();
    p.sequence = sequence.data();
    auto scratch = problem.scratch();
    const lck::OverlapKernels& kernels = lck::overlap_kernels(isa, dtype);
    for (const WeightMode mode : {WeightMode::kCrop, WeightMode::kHann}) {
      p.mode = mode;
      kernels.gather(p, 0, p.num_tiles, scratch.data());
      kernels.scatter(p, 0, p.num_tiles, scratch.data());
      kernels.fill(p, 0, p.num_segments);
    }
    if (dtype != DType::kFloat64) continue;
    p.mode = WeightMode::kExplicit;
    p.weights = table.data();
    p.dweights = dtable.data();
    kernels.weight_grad(p, 0, p.num_tiles, scratch.data());
  }
}

// Segments and tiles of any value: nothing outside the buffers is accessed.
void check_damaged_plans(Isa isa) {
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    Problem problem(150, 32, 20, 5, WeightMode::kHann);
    for (Segment& s : problem.segments) {
      int32_t* fields = &s.row;
      fields[random() % 10] = static_cast<int32_t>(random());
      fields[random() % 10] += static_cast<int32_t>(random() % 41) - 20;
    }
    for (int32_t& bound : problem.tiles) {
      if (random() % 3 == 0) bound = static_cast<int32_t>(random());
    }
    problem.params.most_segments = lck::most_segments(problem.params);
    auto scratch = problem.scratch();
    const lck::OverlapKernels& kernels = lck::overlap_kernels(isa, DType::kFloat32);
    kernels.gather(problem.params, 0, problem.params.num_tiles, scratch.data());
    kernels.scatter(problem.params, 0, problem.params.num_tiles, scratch.data());
    kernels.fill(problem.params, 0, problem.params.num_segments);
  }
}

}  // namespace

int main() {
  for (int i = 0; i <= static_cast<int>(lck::detected_isa()); ++i) {
    const Isa isa = static_cast<Isa>(i);
    for (const WeightMode mode : {WeightMode::kUniform, WeightMode::kTriangular, WeightMode::kHann,
                                  WeightMode::kExplicit, WeightMode::kAdd}) {
      for (const int64_t dim : {1, 3, 16, 64, 131}) {
        for (const bool stream : {false, true}) {
          check_gather(isa, Problem(200, 65, 32, dim, mode), stream);
          check_gather(isa, Problem(7, 64, 32, dim, mode), stream);
          check_scatter(isa, Problem(200, 65, 32, dim, mode), stream);
          check_scatter(isa, Problem(129, 40, 5, dim, mode), stream);
        }
      }
    }
    check_memory(isa, DType::kFloat32, 4);
    check_memory(isa, DType::kBFloat16, 2);
    check_memory(isa, DType::kFloat16, 2);
    check_memory(isa, DType::kFloat64, 8);
    check_threads(isa);
    check_weight_grad(isa);
    check_bad_weights(isa);
    check_damaged_plans(isa);
  }
  std::puts("test_overlap: ok");
}
