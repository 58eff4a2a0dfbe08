#!/usr/bin/env bash
# Versions: torch 2.13.0 (CPU), transformers 5.17.0.
# Behaviour: the decoder of UMT5 sees later tokens whenever it gets more than one at a time (labels, decoder_input_ids):
#   the logits of a position change with the tokens after it, under eager attention and under sdpa, with and without a
#   cache or a decoder_attention_mask. T5 and mT5 are causal. In transformers 5.24.0 UMT5 is causal too.
# Seen on 2026-11-29 (random weights), the largest change of an earlier logit by another last token:
#   UMT5 eager 0.67, sdpa 0.67
#   MT5  eager 0.00, sdpa 0.00
# Instead: a version in which the check below gives 0 for UMT5. Losses and scores from 5.17.0 are those of a model that
#   reads the answer; generation with a cache, one token at a time, is not affected.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.13.0 transformers==5.17.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import transformers

print("torch", torch.__version__, "transformers", transformers.__version__)
SIZES = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}


def change(name, attention):
    """How much earlier logits change with the decoder's last token."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, decoder_start_token_id=0)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    model.set_attn_implementation(attention)
    text, answer = torch.randint(5, 64, (1, 9)), torch.randint(5, 64, (1, 7))
    other = answer.clone()
    other[0, -1] = answer[0, -2]
    with torch.no_grad():
        one, two = (model(input_ids=text, decoder_input_ids=ids).logits[:, :-1] for ids in (answer, other))
    return (one - two).abs().max().item()


found = {(name, attention): change(name, attention) for name in ("UMT5", "MT5") for attention in ("eager", "sdpa")}
for (name, attention), size in found.items():
    print(f"{name} {attention}: earlier logits change by {size:.2f}")
sees = [size > 1e-3 for size in found.values()]
raise SystemExit(sees != [True, True, False, False])
PYTHON
