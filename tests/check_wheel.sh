#!/usr/bin/env bash
# Builds an sdist and from it a wheel, and runs an op with the wheel in an empty environment; then the same without a
# compiler. The CUDA kernels are not built.
# usage: tests/check_wheel.sh PYTHON TORCH, e.g. tests/check_wheel.sh .venv/bin/python torch==2.13.0
set -euo pipefail

python=$1
torch=$2
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

merge='import importlib.metadata, pathlib, torch, lckernels
package = pathlib.Path(lckernels.__file__).parent
assert all((package / name).exists() for name in ("py.typed", "cli/pages/page.css", "cli/pages/page.js"))
assert importlib.metadata.version("lckernels") == lckernels.__version__
plan = lckernels.Plan.from_segments([[0, 0, 0, 4], [1, 0, 2, 4]], num_chunks=2, chunk_len=4, total_len=6)
assert lckernels.overlap_merge(torch.ones(2, 4, 3), plan).sum() == 18
print(lckernels.backends.registry.availability())'

LCK_CUDA=0 "$python" -m build -q --no-isolation --outdir "$folder" .
"$python" -m venv "$folder/empty"
"$folder/empty/bin/pip" install -q "$torch" "$folder"/*.whl
(cd "$folder" && empty/bin/python -W ignore -c "$merge
assert lckernels.backends.registry.availability()['cpu'] == ''
assert lckernels.plan_chunks([1050], 512, 256).num_chunks == 4")

"$folder/empty/bin/pip" install -q "setuptools>=77"
echo "without a compiler:"
PATH="$folder/empty/bin" "$folder/empty/bin/pip" wheel -q --no-build-isolation --no-deps -w "$folder/pure" \
  "$folder"/*.tar.gz
ls "$folder"/pure/lckernels-*-py3-none-any.whl
"$folder/empty/bin/pip" install -q --no-deps --force-reinstall "$folder"/pure/*.whl
(cd "$folder" && empty/bin/python -W ignore -c "$merge
assert 'not built' in lckernels.backends.registry.availability()['cpu']")
