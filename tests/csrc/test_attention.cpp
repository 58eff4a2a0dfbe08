// Windowed attention without torch, forward and backward: every instruction set and dtype against plain
// loops, on several threads.
#include <cstdio>
#include <string>
#include <vector>

#include "attention_problem.h"
#include "check.h"
#include "threads.h"

namespace {

using lck::DType;
using lck::Isa;
using lck::test::Case;
using lck::test::Problem;
using lck::test::Results;
using lck::test::Storage;
using lck::test::Sums;
using lck::test::Tensor;

// 0, 1, .. count - 1 in runs, each so long and with the next number; with `period` the numbers come again.
std::vector<int64_t> runs(int64_t count, int64_t length, int64_t period) {
  std::vector<int64_t> x(count);
  for (int64_t i = 0; i < count; ++i) x[i] = 5 - i / length % period;
  return x;
}

std::vector<uint8_t> mask(int64_t count) {
  std::vector<uint8_t> x(count);
  for (int64_t i = 0; i < count; ++i) x[i] = i * 7 % 5 != 0 && i / 10 != 2;
  return x;
}

std::vector<Case> cases() {
  constexpr int64_t kFar = int64_t{1} << 61;
  std::vector<Case> all{
      {.name = "no queries", .seqlen_q = 0, .seqlen_k = 70, .batch = 2, .sink_logits = true},
      {.name = "no keys", .seqlen_q = 5, .seqlen_k = 0, .sink_logits = true},
      {.name = "no batch", .seqlen_q = 5, .seqlen_k = 5, .batch = 0},
      {.name = "one", .seqlen_q = 1, .seqlen_k = 1, .heads = 1, .dim = 1, .dim_v = 1},
      {.name = "dim 1", .seqlen_q = 47, .seqlen_k = 63, .dim = 1, .dim_v = 3, .storage = Storage::kPadded},
      {.name = "dims 8, 40",
       .seqlen_q = 96,
       .seqlen_k = 64,
       .heads = 4,
       .kv_heads = 2,
       .dim = 8,
       .dim_v = 40},
      {.name = "dims 40, 8, causal",
       .seqlen_q = 97,
       .seqlen_k = 97,
       .batch = 2,
       .heads = 3,
       .dim = 40,
       .dim_v = 8,
       .window = {-1, 0, 0, 0},
       .storage = Storage::kHeadsFirst},
      {.name = "dim 256",
       .seqlen_q = 33,
       .seqlen_k = 65,
       .dim = 256,
       .dim_v = 256,
       .window = {20, 3, 0, 0},
       .storage = Storage::kPadded},
      {.name = "band", .seqlen_q = 191, .seqlen_k = 193, .window = {9, 5, 0, 0}},
      {.name = "band, one head", .seqlen_q = 192, .seqlen_k = 192, .heads = 1, .window = {64, 0, 0, 0}},
      {.name = "sinks",
       .seqlen_q = 193,
       .seqlen_k = 191,
       .window = {17, 0, 4, 0},
       .kv_start = {3},
       .kv_end = {180}},
      {.name = "chunks",
       .seqlen_q = 130,
       .seqlen_k = 130,
       .batch = 2,
       .window = {-1, 2, 0, 31},
       .chunk_origins = {-7, 40}},
      {.name = "kv_mask",
       .seqlen_q = 70,
       .seqlen_k = 140,
       .batch = 2,
       .heads = 4,
       .kv_heads = 4,
       .window = {30, 30, 2, 0},
       .nan_values = true,
       .kv_start = {-4, 20},
       .kv_end = {500, 100},
       .kv_mask = mask(280)},
      {.name = "nothing seen",
       .seqlen_q = 20,
       .seqlen_k = 66,
       .batch = 2,
       .nan_values = true,
       .kv_start = {70, 9},
       .kv_end = {80, 9}},
      {.name = "segments",
       .seqlen_q = 130,
       .seqlen_k = 130,
       .batch = 2,
       .window = {12, 40, 3, 0},
       .kv_start = {0, 11},
       .segment_ids = runs(260, 21, 99)},
      {.name = "scattered segments",
       .seqlen_q = 140,
       .seqlen_k = 140,
       .window = {60, 60, 5, 0},
       .storage = Storage::kPadded,
       .offsets = {-6},
       .segment_ids = runs(140, 13, 3),
       .kv_mask = mask(140)},
      {.name = "packed",
       .seqlen_q = 270,
       .seqlen_k = 330,
       .window = {40, 7, 2, 0},
       .dropout_p = 0.2,
       .dlse = true,
       .cu_seqlens_q = {0, 5, 5, 205, 270, 270},
       .cu_seqlens_k = {0, 0, 70, 265, 330, 330}},
      {.name = "packed, valid keys",
       .seqlen_q = 40,
       .seqlen_k = 90,
       .nan_values = true,
       .cu_seqlens_q = {0, 10, 40},
       .cu_seqlens_k = {0, 30, 90},
       .offsets = {3, -2},
       .kv_start = {4, -8},
       .kv_end = {25, 33},
       .kv_mask = mask(90)},
      {.name = "decode",
       .seqlen_q = 1,
       .seqlen_k = 2103,
       .batch = 2,
       .heads = 6,
       .kv_heads = 2,
       .sink_logits = true,
       .kv_end = {2103, 1500}},
      {.name = "decode in a window",
       .seqlen_q = 3,
       .seqlen_k = 2000,
       .heads = 3,
       .kv_heads = 3,
       .window = {1500, 0, 70, 0},
       .storage = Storage::kPadded},
      {.name = "many short texts",
       .seqlen_q = 5,
       .seqlen_k = 11,
       .batch = 66,
       .heads = 4,
       .kv_heads = 2,
       .dim = 8,
       .dim_v = 8,
       .window = {-1, 0, 0, 0},
       .sink_logits = true},
      {.name = "score",
       .seqlen_q = 100,
       .seqlen_k = 120,
       .heads = 4,
       .kv_heads = 2,
       .window = {50, 20, 0, 0},
       .storage = Storage::kHeadsFirst,
       .softcap = 0.8,
       .dropout_p = 0.3,
       .bias_len = 41,
       .bias_center = 25,
       .sink_logits = true,
       .dlse = true},
      {.name = "score, packed for all",
       .seqlen_q = 210,
       .seqlen_k = 210,
       .window = {70, 0, 3, 0},
       .softcap = 2,
       .dropout_p = 0.5,
       .bias_len = 300,
       .bias_center = 299,
       .sink_logits = true,
       .dlse = true},
      // On one thread the key tiles of all kv heads are packed in several waves, on three in one.
      {.name = "waves",
       .seqlen_q = 193,
       .seqlen_k = 300,
       .dtypes = {DType::kFloat64},
       .heads = 4,
       .kv_heads = 4,
       .dim = 256,
       .dim_v = 256,
       .window = {3, 3, 0, 0},
       .bias_len = 9,
       .bias_center = 3},
      // Keys in several strips, which take turns at dq; the last two: more strips of a head than there are
      // places for parts of dbias, and sums of dq for one head at a time.
      {.name = "strips",
       .seqlen_q = 70,
       .seqlen_k = 1700,
       .dtypes = {DType::kFloat32, DType::kBFloat16},
       .heads = 1,
       .dim = 8,
       .dim_v = 16,
       .window = {-1, 0, 0, 0}},
      {.name = "strips, both ways",
       .seqlen_q = 70,
       .seqlen_k = 1100,
       .dtypes = {DType::kFloat16},
       .dim = 8,
       .dim_v = 8,
       .storage = Storage::kPadded,
       .dlse = true},
      {.name = "strips, sinks",
       .seqlen_q = 200,
       .seqlen_k = 600,
       .dtypes = {DType::kFloat32, DType::kBFloat16},
       .heads = 1,
       .dim = 8,
       .dim_v = 8,
       .window = {90, 0, 70, 0}},
      {.name = "strips, bias",
       .seqlen_q = 5,
       .seqlen_k = 1100,
       .dtypes = {DType::kFloat32, DType::kFloat64},
       .batch = 12,
       .heads = 1,
       .dim = 8,
       .dim_v = 8,
       .bias_len = 300,
       .bias_center = 299},
      {.name = "strips, waves",
       .seqlen_q = 130,
       .seqlen_k = 520,
       .dtypes = {DType::kBFloat16},
       .batch = 2,
       .heads = 4,
       .dim = 8,
       .dim_v = 8,
       .bias_len = 50,
       .bias_center = 25},
      {.name = "bias of one", .seqlen_q = 66, .seqlen_k = 66, .bias_len = 1, .offsets = {30}},
      {.name = "no values", .seqlen_q = 66, .seqlen_k = 66, .dim_v = 0, .dlse = true},
  };
  for (const int64_t far : {-kFar, kFar}) {
    all.push_back({.name = "far offset",
                   .seqlen_q = 200,
                   .seqlen_k = 70,
                   .window = {5, 5, 2, 9},
                   .dropout_p = 0.1,
                   .bias_len = 5,
                   .bias_center = 2,
                   .offsets = {far},
                   .kv_start = {-kFar},
                   .kv_end = {kFar},
                   .chunk_origins = {-far}});
    all.push_back({.name = "far offset, all seen",
                   .seqlen_q = 20,
                   .seqlen_k = 70,
                   .window = {far > 0 ? -1 : 5, far > 0 ? 5 : -1, 0, 0},
                   .bias_len = 5,
                   .offsets = {far}});
  }
  return all;
}

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
    if (isa == Isa::kAvx512Bf16 && dtype != DType::kBFloat16) continue;  // the same passes as kAvx512
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
  for (const Case& c : cases()) {
    for (const DType dtype : c.dtypes) check(c, dtype);
  }
  std::puts("test_attention: ok");
}
