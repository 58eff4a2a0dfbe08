#!/usr/bin/env bash
# Build, correctness checks and timings on a machine with an NVIDIA GPU and no network, in one call.
# usage: bench/gpu.sh [--device cuda|cpu] [--only build,check,random,merge,forward,backward,models,compile]
#        [--tiny]
# The sections of the CUDA kernels run only if --only names them: primitives (warp instructions against their host
# versions), cuda_check, cuda_random, cuda_merge, cuda_forward, cuda_backward, memcheck, racecheck; so does tune,
# which stores the fastest tiles.
# Rows go to $OUT, or to build/bench; the exit status is 1 if a section failed.
set -uo pipefail

device=cuda
only=build,check,random,merge,forward,backward,models,compile
tiny=()
while (($#)); do
  case $1 in
    --device | --only)
      if (($# < 2)); then
        echo "$1 needs a value" >&2
        exit 2
      fi
      if [[ $1 == --device ]]; then device=$2; else only=$2; fi
      shift 2
      ;;
    --tiny)
      tiny=(--tiny)
      shift
      ;;
    *)
      echo "unknown argument $1; allowed are --device, --only, --tiny" >&2
      exit 2
      ;;
  esac
done

known=build,check,random,merge,forward,backward,models,compile
known+=,tune,primitives,cuda_check,cuda_random,cuda_merge,cuda_forward,cuda_backward,memcheck,racecheck
for name in ${only//,/ }; do
  if [[ ,$known, != *,$name,* ]]; then
    echo "unknown section $name; allowed are $known" >&2
    exit 2
  fi
done

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=${PYTHON:-python3}
rows=${OUT:-build/bench}
common=(--device "$device" ${tiny[@]+"${tiny[@]}"})
failed=()
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD/tests${PYTHONPATH:+:$PYTHONPATH}"

# section NAME LIMIT COMMAND...: runs the command for at most LIMIT seconds if the section is selected.
section() {
  local name=$1 limit=$2
  shift 2
  [[ ,$only, == *,$name,* ]] || return 0
  echo "== $name"
  SECONDS=0
  timeout "$limit" "$@" || failed+=("$name")
  echo "== $name took $SECONDS s"
}

echo "== machine"
uname -srm
if [[ $device == cuda ]]; then
  nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,power.limit --format=csv
fi
"$python" -c 'import platform, torch; print("python", platform.python_version(), "torch", torch.__version__)'

# A library that is newer than its sources is not built again.
if [[ -f lckernels/_C_cuda.so && -z $(find csrc -newer lckernels/_C_cuda.so -type f) ]]; then export LCK_CUDA=0; fi
section build 300 "$python" setup.py -q build_ext --inplace
section check 100 "$python" -m bench.gpu.check "${common[@]}"
section random 150 env LCKERNELS=backend=triton "$python" -m pytest -q -n 12 tests/ops/test_random_attention.py \
  tests/backends/test_triton_models.py tests/backends/test_triton_gpu.py tests/backends/test_triton_descriptors.py --random-problems 120
section merge 100 "$python" -m bench.gpu.ops merge --rows "$rows" "${common[@]}"
section forward 140 "$python" -m bench.gpu.ops forward --rows "$rows" "${common[@]}"
section backward 140 "$python" -m bench.gpu.ops backward --rows "$rows" "${common[@]}"
section models 160 "$python" -m bench.gpu.models --rows "$rows" "${common[@]}"
section tune 500 "$python" -m bench.gpu.tune --rows "$rows"
cuda=(env LCKERNELS=backend=cuda "$python" -m)
section primitives 60 bash bench/gpu/primitives.sh
section cuda_check 100 "$python" -m bench.gpu.check --backend cuda "${common[@]}"
section cuda_random 150 env LCKERNELS=backend=cuda "$python" -m pytest -q -n 12 tests/ops/test_random_attention.py \
  --random-problems 1500
section cuda_merge 100 "${cuda[@]}" bench.gpu.ops merge --rows "$rows" "${common[@]}"
section cuda_forward 140 "${cuda[@]}" bench.gpu.ops forward --rows "$rows" "${common[@]}"
section cuda_backward 140 "${cuda[@]}" bench.gpu.ops backward --rows "$rows" "${common[@]}"
for tool in memcheck racecheck; do
  section $tool 280 compute-sanitizer --tool $tool --error-exitcode 1 "$python" -m bench.gpu.check --backend cuda \
    "${common[@]}"
done
start=()
[[ $device == cuda ]] || start=(--target sm_90 --only forward-d64)
section compile 150 "$python" -m bench.compile.triton_start ${start[@]+"${start[@]}"}

if ((${#failed[@]})); then
  echo "== failed: ${failed[*]}"
  exit 1
fi
echo "== all sections passed"
