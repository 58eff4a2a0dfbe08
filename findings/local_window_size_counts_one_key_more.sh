#!/usr/bin/env bash
# Versions: onnxruntime 1.23.2 and 1.24.1 (CPU), onnx 1.18.0, numpy 2.3.5.
# Behaviour: GroupQueryAttention of com.microsoft, version 1, with local_window_size=3: until onnxruntime 1.23 a query sees
#   four keys on a CPU, three before its own; from 1.24 on it sees three, its own included. The same ONNX file thus has
#   other results in the other version, without an error and without a warning.
# Seen on 2026-11-30, keys that each of seven queries sees: 1.23.2: 1 2 3 4 4 4 4; 1.24.1: 1 2 3 3 3 3 3. 1.20.1, 1.21.1 and
#   1.22.1 are as 1.23.2; 1.26.0, 1.29.0 and 1.32.0 as 1.24.1.
# Instead: onnxruntime 1.24 or newer for a file with local_window_size = the number of keys; export again for older ones.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/keys.py" <<'PYTHON'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

tokens, width = 7, 8
kinds = {name: TensorProto.FLOAT for name in ("q", "k", "v")} | {name: TensorProto.INT32 for name in ("last", "total")}
shapes = {name: (1, tokens, width) for name in ("q", "k", "v")} | {"last": (1,), "total": ()}
node = helper.make_node(
    "GroupQueryAttention", ["q", "k", "v", "", "", "last", "total"], ["out", "present_k", "present_v"],
    domain="com.microsoft", num_heads=1, kv_num_heads=1, local_window_size=3,
)
given = [helper.make_tensor_value_info(name, kinds[name], shapes[name]) for name in kinds]
made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("out", "present_k", "present_v")]
graph = helper.make_graph([node], "attention", given, made)
versions = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
model = helper.make_model(graph, opset_imports=versions, ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
blank = np.zeros((1, tokens, width), np.float32)
values = blank.copy()
values[0, range(tokens), range(tokens)] = 1  # the result of a query is not 0 where it sees the key
inputs = {"q": blank, "k": blank, "v": values, "last": np.array([tokens - 1], np.int32), "total": np.array(tokens, np.int32)}
keys = (session.run(["out"], inputs)[0][0] > 0).sum(1).tolist()
print(onnxruntime.__version__, *keys)
expected = 4 if sys.argv[1] == "old" else 3
raise SystemExit(keys != [min(i + 1, expected) for i in range(tokens)])
PYTHON
for which in old:1.23.2 new:1.24.1; do
  python3 -m venv "$folder/${which%:*}"
  "$folder/${which%:*}/bin/python" -m pip --disable-pip-version-check install -q "onnxruntime==${which#*:}" onnx==1.18.0 numpy==2.3.5
  "$folder/${which%:*}/bin/python" "$folder/keys.py" "${which%:*}"
done
