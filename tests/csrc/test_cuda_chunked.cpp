// The CUDA kernels of chunked attention, run on the host, against plain loops.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "chunked_problem.h"
#include "cuda/chunked/run.h"
#include "cuda_launch.h"

namespace {

using lck::DType;
using lck::GpuChunkedParams;
using lck::Segment;
using lck::test::check_near;
using lck::test::ChunkedCase;
using lck::test::ChunkedProblem;
using lck::test::ChunkedResults;
using lck::test::SimtLaunch;
using lck::test::Storage;
using lck::test::Sums;
using lck::test::Tensor;

// The plan's segments by their chunks, as the backend computes them on the device.
struct Tables {
  std::vector<Segment> segments;
  std::vector<int32_t> tiles, by_chunk;
  std::vector<int64_t> bounds;
  std::vector<float> lse, dots;

  Tables(const ChunkedProblem& problem, GpuChunkedParams* a) : segments(problem.segments) {
    std::stable_sort(segments.begin(), segments.end(),
                     [](const Segment& x, const Segment& y) { return x.start < y.start; });
    const auto count = static_cast<int32_t>(segments.size());
    for (int64_t tile = 0; tile < (problem.c.total_len + lck::kTileLen - 1) / lck::kTileLen; ++tile) {
      tiles.push_back(0), tiles.push_back(count);
    }
    for (int32_t n = 0; n < count; ++n) by_chunk.push_back(n);
    const auto row = [this](int32_t n) { return segments[n].row; };
    std::stable_sort(by_chunk.begin(), by_chunk.end(), [&](int32_t x, int32_t y) { return row(x) < row(y); });
    for (int64_t chunk = 0; chunk <= problem.c.num_chunks; ++chunk) {
      bounds.push_back(
          std::count_if(by_chunk.begin(), by_chunk.end(), [&](int32_t n) { return row(n) < chunk; }));
    }
    const int64_t rows = problem.c.num_chunks * problem.c.heads * (problem.c.chunk_len + problem.c.num_extra);
    lse.assign(rows, NAN), dots.assign(rows, NAN);
    a->c.segments = segments.data(), a->c.num_segments = count;
    a->c.chunk_bounds = bounds.data(), a->c.chunk_segments = by_chunk.data();
    a->tile_segments = tiles.data();
    a->lse = lse.data(), a->dots = dots.data();
  }
};

// Whether the kernels support a case: dims of whole 16 bytes, aligned rows.
ChunkedCase for_cuda(ChunkedCase c) {
  c.dim = (c.dim + 7) / 8 * 8, c.dim_v = (c.dim_v + 7) / 8 * 8;
  c.storage = lck::test::aligned(c.storage);
  return c;
}

void check(const ChunkedCase& c, DType dtype) {
  const ChunkedProblem problem(c, dtype);
  const ChunkedResults<Sums> want = problem.expected();
  GpuChunkedParams a{};
  const ChunkedResults<Tensor> got = problem.results(Storage::kAligned, &a.c);
  // Weights are fp32, in their own memory.
  const Tables tables(problem, &a);
  lck::with_chunked_run(dtype, a, [&](auto run) {
    run.forward(a, SimtLaunch{});
    run.backward(a, SimtLaunch{});
  });
  const std::string what = std::string(c.name) + ", dtype " + std::to_string(static_cast<int>(dtype));
  const double near = lck::test::tolerance_of(dtype);
  check_near(what.c_str(), "out", got.out, want.out, near);
  check_near(what.c_str(), "dq", got.dq, want.dq, near);
  check_near(what.c_str(), "dk", got.dk, want.dk, near);
  check_near(what.c_str(), "dv", got.dv, want.dv, near);
  check_near(what.c_str(), "extra out", got.extra_out, want.extra_out, near);
  if (c.extra_gradient) check_near(what.c_str(), "extra dq", got.extra_dq, want.extra_dq, near);
  check_near(what.c_str(), "extra dk", got.extra_dk, want.extra_dk, near);
  check_near(what.c_str(), "extra dv", got.extra_dv, want.extra_dv, near);
  // A row's dots, summed over heads, if a segment has it; the other rows are not written.
  for (const Segment& s : c.segments) {
    for (int64_t column = s.col; c.row_dots && column < s.col + s.length; ++column) {
      double sum = 0;
      for (int64_t head = 0; head < c.heads; ++head) {
        sum += tables.dots[lck::row_table(a.c, s.row, head) + column];
      }
      const double expected = want.row_dots.x[s.row * c.chunk_len + column];
      if (lck::test::near(sum, expected, near)) continue;
      std::fprintf(stderr, "%s: dots of chunk %d, column %d are %g, not %g\n", what.c_str(), s.row,
                   static_cast<int>(column), sum, expected);
      std::exit(1);
    }
  }
}

}  // namespace

int main() {
  std::vector<ChunkedCase> cases = lck::test::chunked_cases();
  cases.push_back({.name = "wide heads",
                   .total_len = 150,
                   .chunk_len = 90,
                   .segments = lck::test::chunks(150, 80, 50),
                   .num_chunks = 3,
                   .num_extra = 2,
                   .dim = 72,
                   .dim_v = 128});
  for (const ChunkedCase& c : cases) {
    // Long chunks and many segments test how the CPU divides work; here they would take minutes.
    if (c.total_len > 500 || c.segments.size() > 20) continue;
    if (lck::test::kFewCases && !c.num_extra) continue;
    check(for_cuda(c), DType::kBFloat16);
    if (!lck::test::kFewCases) check(for_cuda(c), DType::kFloat16);
  }
  std::puts("test_cuda_chunked: ok");
}
