#!/usr/bin/env bash
# The warp instructions of csrc/cuda/ptx.cuh on the GPU and by their twins on the host: the same bits, or it fails.
# Needs nvcc and the build folder of setup.py.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=$(echo build/cmake-*)
nvcc -std=c++20 -O2 -Icsrc -Itests/csrc -arch=native --expt-relaxed-constexpr -o build/gpu_primitives \
  tests/csrc/gpu_primitives.cu
cmake --build "$build" --target test_cuda_primitives > build/gpu_primitives.log
diff <(build/gpu_primitives) <("$build/test_cuda_primitives")
echo "the same bits on both sides"
