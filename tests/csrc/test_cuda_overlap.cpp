// The CUDA kernels of overlap_merge and overlap_split, run on the host, against the CPU's kernels: every
// dtype and weight mode, on buffers of exactly the tensors' size.
#include <cstdio>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/overlap/kernels.h"
#include "cuda/overlap/run.h"
#include "cuda_launch.h"
#include "overlap_problem.h"
#include "tensor.h"

namespace {

using lck::DType;
using lck::Isa;
using lck::OverlapParams;
using lck::WeightMode;
using lck::test::OverlapProblem;
using lck::test::SimtLaunch;

// Rows from element `lead` of their memory on, with `pad` elements between them.
struct Rows {
  DType dtype;
  std::vector<std::byte> memory;
  int64_t lead, stride, dim, rows;

  Rows(DType dtype, int64_t rows, int64_t dim, int64_t lead, int64_t pad)
      : dtype(dtype), lead(lead), stride(dim + pad), dim(dim), rows(rows) {
    const int64_t count = rows && dim ? lead + (rows - 1) * stride + dim : 0;
    memory.resize(count * lck::element_bytes(dtype));
    for (int64_t i = 0; i < count; ++i) lck::test::store(dtype, NAN, at(i));
  }
  std::byte* at(int64_t i) { return memory.data() + i * lck::element_bytes(dtype); }
  void* data() { return memory.empty() ? nullptr : at(lead); }
  double get(int64_t row, int64_t d) { return lck::test::load(dtype, at(lead + row * stride + d)); }
  void fill(std::mt19937& random) {
    std::uniform_real_distribution<double> uniform(-1, 1);
    for (int64_t i = 0; i < rows * dim; ++i) {
      lck::test::store(dtype, uniform(random), at(lead + i / dim * stride + i % dim));
    }
  }
};

// One problem in a dtype, with separate chunks, sequence and tables for both kernels.
struct Side {
  OverlapProblem plan;
  Rows chunks, sequence;
  std::vector<double> table, dtable;  // large enough for fp64; fp32 otherwise
  OverlapParams params;

  Side(const OverlapProblem& from, DType dtype, int64_t dim, int64_t lead, int64_t pad)
      : plan(from),
        chunks(dtype, from.params.num_chunks * from.params.chunk_len, dim, lead, pad),
        sequence(dtype, from.params.total_len, dim, lead, pad),
        table(from.params.num_chunks * from.params.chunk_len),
        dtable(table.size(), 0.0),
        params(from.params) {
    std::mt19937 random(5);
    chunks.fill(random), sequence.fill(random);
    std::uniform_real_distribution<double> uniform(0.1, 1);
    for (size_t i = 0; i < table.size(); ++i) {
      const double weight = i % 7 == 3 ? 0 : uniform(random);
      if (dtype == DType::kFloat64) {
        table[i] = weight;
      } else {
        reinterpret_cast<float*>(table.data())[i] = static_cast<float>(weight);
      }
    }
    params.segments = plan.segments.data(), params.tile_segments = plan.tiles.data();
    params.chunks = chunks.data(), params.sequence = sequence.data();
    params.weights = params.mode == WeightMode::kExplicit ? table.data() : nullptr;
    params.dweights = dtable.data();
    params.dim = dim;
    params.column_stride = chunks.stride, params.position_stride = sequence.stride;
    params.chunk_stride = params.chunk_len * chunks.stride;
  }
};

double tolerance(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return 1.0 / 128;
    case DType::kFloat16:
      return 1.0 / 1024;
    case DType::kFloat64:
      return 1e-13;
    default:
      return 1e-5;
  }
}

void check_same(Rows& got, Rows& want, const std::string& what) {
  for (int64_t row = 0; row < got.rows; ++row) {
    for (int64_t d = 0; d < got.dim; ++d) {
      const double x = got.get(row, d), y = want.get(row, d);
      if (std::abs(x - y) <= tolerance(got.dtype)) continue;
      std::fprintf(stderr, "%s: row %lld, element %lld is %g, should be %g\n", what.c_str(),
                   static_cast<long long>(row), static_cast<long long>(d), x, y);
      std::exit(1);
    }
  }
}

void check_case(const OverlapProblem& plan, DType dtype, int64_t dim, int64_t lead, int64_t pad) {
  const std::string what = "dtype " + std::to_string(static_cast<int>(dtype)) + ", mode " +
                           std::to_string(static_cast<int>(plan.params.mode)) + ", dim " +
                           std::to_string(dim) + ", lead " + std::to_string(lead);
  const lck::OverlapKernels& cpu = lck::overlap_kernels(Isa::kGeneric, dtype);
  std::vector<double> scratch = plan.scratch();
  scratch.resize(2 * scratch.size());  // fp64 weights
  {
    Side got(plan, dtype, dim, lead, pad), want(plan, dtype, dim, lead, pad);
    cpu.gather(want.params, 0, want.params.num_tiles, scratch.data());
    lck::with_overlap_run(dtype, got.params, [&](auto run) { run.gather(got.params, SimtLaunch{}); });
    check_same(got.sequence, want.sequence, "gather, " + what);
  }
  {
    Side got(plan, dtype, dim, lead, pad), want(plan, dtype, dim, lead, pad);
    cpu.scatter(want.params, 0, want.params.num_tiles, scratch.data());
    cpu.fill(want.params, 0, want.params.num_segments);
    lck::with_overlap_run(dtype, got.params, [&](auto run) { run.scatter(got.params, SimtLaunch{}); });
    check_same(got.chunks, want.chunks, "scatter, " + what);
  }
  if (plan.params.mode != WeightMode::kExplicit) return;
  Side got(plan, dtype, dim, lead, pad), want(plan, dtype, dim, lead, pad);
  cpu.weight_grad(want.params, 0, want.params.num_tiles, scratch.data());
  lck::with_overlap_run(dtype, got.params, [&](auto run) { run.weight_grad(got.params, SimtLaunch{}); });
  for (size_t i = 0; i < got.dtable.size(); ++i) {
    const bool wide = dtype == DType::kFloat64;
    const double x = wide ? got.dtable[i] : reinterpret_cast<float*>(got.dtable.data())[i];
    const double y = wide ? want.dtable[i] : reinterpret_cast<float*>(want.dtable.data())[i];
    CHECK(std::abs(x - y) <= (wide ? 1e-12 : 2e-5) * (1 + std::abs(y)) * std::max<int64_t>(dim, 16) / 16);
  }
}

// Segments and tiles of any value: nothing outside the buffers is accessed.
void check_damaged_plans() {
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    OverlapProblem problem(150, 32, 20, 5, round % 2 ? WeightMode::kHann : WeightMode::kExplicit);
    for (lck::Segment& s : problem.segments) {
      int32_t* fields = &s.row;
      fields[random() % 10] = static_cast<int32_t>(random());
      fields[random() % 10] += static_cast<int32_t>(random() % 41) - 20;
    }
    for (int32_t& bound : problem.tiles) {
      if (random() % 3 == 0) bound = static_cast<int32_t>(random());
    }
    Side side(problem, DType::kFloat32, 5, 0, 0);
    lck::with_overlap_run(DType::kFloat32, side.params, [&](auto run) {
      run.gather(side.params, SimtLaunch{});
      run.scatter(side.params, SimtLaunch{});
      if (side.params.weights) run.weight_grad(side.params, SimtLaunch{});
    });
  }
}

}  // namespace

int main() {
  for (const WeightMode mode : {WeightMode::kUniform, WeightMode::kTriangular, WeightMode::kHann,
                                WeightMode::kCrop, WeightMode::kExplicit, WeightMode::kAdd}) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
      if (lck::test::kFewCases && (mode != WeightMode::kExplicit || dtype != DType::kBFloat16)) continue;
      // The last one: two segments in a row, each of which writes a part of its columns.
      const std::vector<lck::Segment> two_a_row{{0, 1, 0, 30, 0, 30, 1, 0, 0, 33},
                                                {0, 34, 20, 30, 2, 28, 0, 0, 33, 65},
                                                {1, 3, 40, 20, 0, 20, 0, 1, 0, 65}};
      const OverlapProblem plans[] = {
          {129, 65, 32, 1, mode}, {7, 64, 32, 1, mode}, {70, 20, 5, 1, mode}, {60, 65, two_a_row, 1, mode}};
      for (const OverlapProblem& plan : plans) {
        for (const int64_t dim : {1, 6, 24}) check_case(plan, dtype, dim, 0, 0);
      }
      check_case(plans[3], dtype, 1100, 0, 4);
      check_case(plans[0], dtype, 16, 1, 3);
      check_case(plans[0], dtype, 32, 8, 8);
    }
  }
  if (!lck::test::kFewCases) check_damaged_plans();
  std::puts("test_cuda_overlap: ok");
}
