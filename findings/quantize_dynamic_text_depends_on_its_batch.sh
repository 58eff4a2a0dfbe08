#!/usr/bin/env bash
# Versions: torch 2.13.0 (CPU), transformers 5.24.0.
# Behaviour: in a model after torch.ao.quantization.quantize_dynamic the states of a text depend on the other texts of its
#   batch, and on padding that the attention mask hides. Each linear layer quantizes its input with one scale for the
#   whole batch, from the smallest and largest value in it, rows of padding included. The change is as large as the error
#   of the quantization itself.
# Seen on 2026-11-29 (BERT with random weights, 4 layers of 256, a text of 64 tokens), relative difference of its states:
#   quantized and fp32, the text alone: 0.0071
#   quantized, in a batch with 7 other texts and alone: 0.0089
#   quantized, with 64 tokens of padding and alone: 0.0083
#   fp32, both: 0.0000
# Instead: one text per call where results are compared or stored; or a quantization with a scale per token, such as
#   Int8DynamicActivationInt8WeightConfig of torchao 0.18.0 (0.0000, 0.0000, and 0.0040 for the text alone).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import transformers

print("torch", torch.__version__, "transformers", transformers.__version__)
torch.manual_seed(0)
config = transformers.BertConfig(
    vocab_size=1000, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4
)
model = transformers.BertModel(config).eval()
quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
texts = torch.randint(5, 1000, (8, 64))
padded = {
    "input_ids": torch.nn.functional.pad(texts[:1], (0, 64)),
    "attention_mask": (torch.arange(128) < 64).long()[None],
}


def difference(one, other):
    return ((one - other).norm() / other.norm()).item()


with torch.no_grad():
    found = {}
    for name, each in (("fp32", model), ("quantized", quantized)):
        alone = each(texts[:1])[0][0]
        found[name] = difference(each(texts)[0][0], alone), difference(each(**padded)[0][0, :64], alone)
        print(f"{name}: in a batch of 8 {found[name][0]:.4f}, with padding {found[name][1]:.4f}")
    error = difference(quantized(texts[:1])[0][0], model(texts[:1])[0][0])
print(f"error of the quantization: {error:.4f}")
raise SystemExit(not (max(found["fp32"]) < 1e-5 and min(found["quantized"]) > error / 2 > 1e-3))
PYTHON
