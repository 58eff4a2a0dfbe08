#!/usr/bin/env bash
# Versions: torch 2.13.0 (CPU), transformers 5.24.0.
# Behaviour: a model in float64, as for a check of its gradients or as a reference, with eager attention and left padding: all
#   logits of a padded row are NaN, without a message. The mask has the most negative float64, the softmax is in float32, where
#   that is -inf; a query of padding then has no key. float32, SDPA in float64, and rows without padding are right.
# Seen on 2026-12-01 (random weights), NaN among the logits of the tokens:
#   float32 eager 0 of 250, float64 eager 250 of 250, float64 sdpa 0 of 250, float64 eager without padding 0 of 250
# Instead: attn_implementation="sdpa" in float64.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import transformers

print("torch", torch.__version__, "transformers", transformers.__version__)


def count(dtype, attention, padded):
    """NaN among the logits of the tokens of one row, and their number."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, attn_implementation=attention,
    )
    model = transformers.LlamaForCausalLM(config).eval().to(dtype)
    ids = torch.randint(5, 50, (1, 8))
    mask = torch.ones_like(ids)
    mask[:, : 3 if padded else 0] = 0
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits[:, 3:]
    return int(logits.isnan().sum()), logits.numel()


found = {}
for dtype, attention, padded in (
    (torch.float32, "eager", True), (torch.float64, "eager", True), (torch.float64, "sdpa", True),
    (torch.float64, "eager", False),
):
    nan, number = count(dtype, attention, padded)
    found[dtype, attention, padded] = nan
    print(f"{dtype} {attention} {'with' if padded else 'without'} left padding: {nan} of {number} logits are NaN")
raise SystemExit(not (found.pop((torch.float64, "eager", True)) == 250 and not any(found.values())))
PYTHON
