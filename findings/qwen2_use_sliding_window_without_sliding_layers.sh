#!/usr/bin/env bash
# Versions: transformers 5.24.0.
# Behaviour: Qwen2Config(use_sliding_window=True, sliding_window=N) gives no layer a sliding window if the model has up
#   to 28 layers: the first max_window_layers layers have full attention, and its default is 28, whatever
#   num_hidden_layers is. There is no warning, and config.sliding_window is N.
# Seen on 2026-11-29, number of layers -> number of layers with a sliding window:
#   24 -> 0
#   28 -> 0
#   32 -> 4
#   24 with max_window_layers=0 -> 24
# Instead: pass max_window_layers=0, and look at config.layer_types.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import transformers
from transformers import Qwen2Config

print("transformers", transformers.__version__)
seen = []
for layers, options in ((24, {}), (28, {}), (32, {}), (24, {"max_window_layers": 0})):
    config = Qwen2Config(num_hidden_layers=layers, use_sliding_window=True, sliding_window=4096, **options)
    seen.append(config.layer_types.count("sliding_attention"))
    assert config.sliding_window == 4096
    print(layers, *(f"with {name}={value}" for name, value in options.items()), "->", seen[-1])
raise SystemExit(seen != [0, 0, 4, 24])
PYTHON
