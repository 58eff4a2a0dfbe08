#!/usr/bin/env bash
# Versions: torch 2.13.0 (CPU), transformers 5.24.0.
# Behaviour: the vision towers of Qwen2-VL and Qwen2.5-VL, called with output_attentions=True under eager attention, return
#   as `attentions` the outputs of their attention layers, (patches, dim), and no attention weights. In 5.17.0 Qwen2.5-VL
#   does the same.
# Seen on 2026-12-01 (random weights, two images of 16 patches):
#   qwen2_vl: attentions [(32, 32)], equal to the layer's output: True
#   qwen2_5_vl: attentions [(32, 32)], equal to the layer's output: True
# Instead: weights from a forward hook on a layer's input, computed by hand. A map of attention drawn from `attentions` is
#   one of hidden states.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import transformers
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as new
from transformers.models.qwen2_vl import modeling_qwen2_vl as old

print("torch", torch.__version__, "transformers", transformers.__version__)
SIZES = {"depth": 1, "hidden_size": 32, "num_heads": 4, "patch_size": 4}
TOWERS = {
    "qwen2_vl": (old.Qwen2VisionTransformerPretrainedModel, {"embed_dim": 32}),
    "qwen2_5_vl": (
        new.Qwen2_5_VisionTransformerPretrainedModel,
        {"intermediate_size": 48, "out_hidden_size": 32, "fullatt_block_indexes": [0]},
    ),
}
found = []
for name, (cls, more) in TOWERS.items():
    torch.manual_seed(0)
    tower = cls(cls.config_class(**SIZES, **more)).eval()
    tower.set_attn_implementation("eager")
    outputs = []
    tower.blocks[0].attn.register_forward_hook(lambda module, args, output: outputs.append(output))
    pixels, grid = torch.randn(32, 96), torch.tensor([[1, 4, 4], [1, 4, 4]])
    with torch.no_grad():
        attentions = tower(pixels, grid_thw=grid, output_attentions=True).attentions
    equal = all(torch.equal(x, y) for x, y in zip(attentions, outputs, strict=True))
    print(f"{name}: attentions {[tuple(x.shape) for x in attentions]}, equal to the layer's output: {equal}")
    found.append(equal)
raise SystemExit(found != [True, True])
PYTHON
