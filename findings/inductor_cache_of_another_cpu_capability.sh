#!/usr/bin/env bash
# Versions: torch 2.13.0 (CPU), g++ 12.2, on an AVX-512 processor (others end with status 2).
# Behaviour: torch.compile keeps compiled functions in a folder on disk. Which of them fits does not depend on
#   ATEN_CPU_CAPABILITY. A process with another value than the one that filled the folder uses them and returns wrong
#   values, without an error and without a warning.
# Seen on 2026-11-30, largest error of the compiled function (64, 1000), folder filled with avx512, then read with avx2:
#   own folder: softmax 7e-09, sum of exp 3e-04, layer_norm 5e-07; shared folder: softmax 0.5, sum of exp 1e+03,
#   layer_norm NaN or 4e+20. Compiled FlexAttention is off by 3 in the same way; filling with avx2 and reading with avx512 too.
# Instead: a TORCHINDUCTOR_CACHE_DIR for each value, or TORCHINDUCTOR_FX_GRAPH_CACHE=0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
grep -qm1 avx512f /proc/cpuinfo || { echo "requires an AVX-512 processor"; exit 2; }
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.13.0 numpy==2.4.0
cat > "$folder/errors.py" <<'PYTHON'
import json
import sys

import torch

FUNCTIONS = {
    "softmax": lambda x: torch.softmax(2 * x, -1),
    "sum of exp": lambda x: x.exp().sum(-1),
    "layer_norm": lambda x: torch.nn.functional.layer_norm(x, (1000,)),
}
torch.manual_seed(0)
x = torch.randn(64, 1000)
errors = {}
for name, function in FUNCTIONS.items():
    torch.compiler.reset()
    errors[name] = float((torch.compile(function)(x) - function(x)).abs().max())
print(torch.__version__, torch.backends.cpu.get_cpu_capability(), sys.argv[1], errors)
json.dump(errors, open(sys.argv[2], "w"))
PYTHON
errors() { # capability, cache folder, result
  ATEN_CPU_CAPABILITY=$1 TORCHINDUCTOR_CACHE_DIR="$folder/$2" "$folder/venv/bin/python" -W ignore "$folder/errors.py" "$2" "$folder/$3"
}
errors avx512 shared first.json
errors avx2 own own.json
errors avx2 shared second.json
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys

first, own, second = (json.load(open(f"{sys.argv[1]}/{name}.json")) for name in ("first", "own", "second"))
right = all(error < 2e-3 for errors in (first, own) for error in errors.values())
wrong = all(not error < 0.1 for error in second.values())
raise SystemExit(not (right and wrong))
PYTHON
