// The warp instructions on the host: the output that tests/csrc/gpu_primitives.cu must have on a GPU.
#include <vector>

#include "check.h"
#include "cuda_launch.h"
#include "primitives.cuh"

int main() {
  const std::vector<uint32_t> from = lck::test::primitive_words();
  std::vector<uint32_t> out(lck::test::kPrimitives * 32 * lck::test::kWordsALane, 0xdeadbeef);
  lck::test::SimtLaunch{}(lck::test::primitives, 1, 32, lck::test::kPrimitiveSmemBytes, from.data(),
                          out.data());
  for (int i = 0; i < 32 * lck::test::kWordsALane; ++i) {
    CHECK(out[4 * 32 * lck::test::kWordsALane + i] == from[i]);
    CHECK(out[5 * 32 * lck::test::kWordsALane + i] == 0);
  }
  lck::test::print_primitives(out.data());
}
