#!/usr/bin/env bash
# Compares the warp instructions of csrc/cuda/ptx.cuh on the GPU with their host versions, bit by bit.
# Requires nvcc and the build folder of setup.py.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python3}
build=build/cmake-$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))')
PATH="$(dirname "$(command -v "$python")"):$PATH"
nvcc -std=c++20 -O2 -Icsrc -Itests/csrc -arch=native --expt-relaxed-constexpr -o build/gpu_primitives \
  tests/csrc/gpu_primitives.cu
cmake --build "$build" --target test_cuda_primitives > build/gpu_primitives.log
build/gpu_primitives > build/gpu_primitives.txt
"$build/test_cuda_primitives" > build/host_primitives.txt
[[ $(wc -l < build/gpu_primitives.txt) -gt 5 ]]
diff build/gpu_primitives.txt build/host_primitives.txt
echo "the same bits on both sides"
