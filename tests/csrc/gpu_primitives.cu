// The warp instructions on a GPU; bench/gpu.sh compares the output with that of test_cuda_primitives.
#include <cstdint>
#include <vector>

#include "primitives.cuh"

int main() {
  const std::vector<uint32_t> from = lck::test::primitive_words();
  std::vector<uint32_t> out(lck::test::kPrimitives * 32 * lck::test::kWordsALane);
  uint32_t *from_there = nullptr, *out_there = nullptr;
  cudaMalloc(&from_there, 4 * from.size());
  cudaMalloc(&out_there, 4 * out.size());
  cudaMemcpy(from_there, from.data(), 4 * from.size(), cudaMemcpyHostToDevice);
  lck::test::primitives<<<1, 32, lck::test::kPrimitiveSmemBytes>>>(from_there, out_there);
  const cudaError_t error = cudaMemcpy(out.data(), out_there, 4 * out.size(), cudaMemcpyDeviceToHost);
  if (error != cudaSuccess) {
    std::fprintf(stderr, "gpu_primitives: %s\n", cudaGetErrorString(error));
    return 1;
  }
  lck::test::print_primitives(out.data());
}
