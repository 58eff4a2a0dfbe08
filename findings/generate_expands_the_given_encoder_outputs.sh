#!/usr/bin/env bash
# Versions: torch 2.13.0 (CPU), transformers 5.24.0.
# Behaviour: generate(encoder_outputs=x, num_beams=2) repeats the rows of the caller's x in place (num_return_sequences=2
#   does the same). After the call x has each document twice; a second call with it takes these rows for documents, returns
#   a row for each, and row 1 of its result belongs to document 0. No error and no warning.
# Seen on 2026-11-30 (T5, random weights, states of two documents, num_beams=2), rows of the states -> rows of the result:
#   call 1: 2 -> 2; call 2: 4 -> 4; call 3: 8 -> 8
#   row 1 of call 2 is that of document 0; a copy for each call: 2 -> 2 in each
# Instead: another object in each call, encoder_outputs=BaseModelOutput(last_hidden_state=x.last_hidden_state).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import transformers
from transformers.modeling_outputs import BaseModelOutput

print("torch", torch.__version__, "transformers", transformers.__version__)
torch.manual_seed(0)
config = transformers.T5Config(
    vocab_size=50, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4,
    decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
)
model = transformers.T5ForConditionalGeneration(config).eval()
with torch.no_grad():
    states = 8 * model.encoder(torch.randint(5, 50, (2, 13))).last_hidden_state


def rows(outputs):
    """The rows of the states before a call, and the call's result."""
    count = len(outputs.last_hidden_state)
    return count, model.generate(encoder_outputs=outputs, num_beams=2, max_new_tokens=6, min_new_tokens=6)


def copies(_):
    return BaseModelOutput(last_hidden_state=states)


shared = copies(0)
found = {"one object": [rows(shared) for _ in range(3)], "copies": [rows(copies(i)) for i in range(3)]}
counts = {}
for name, calls in found.items():
    counts[name] = [(before, len(result)) for before, result in calls]
    print(name, "; ".join(f"{before} -> {after}" for before, after in counts[name]))
first, second = found["one object"][0][1], found["one object"][1][1]
of_other = [torch.equal(second[1], row) for row in first]
print("row 1 of call 2 is that of document 0, 1:", of_other)
sampled = copies(0)
model.generate(encoder_outputs=sampled, num_return_sequences=2, do_sample=True, max_new_tokens=2)
print("rows after num_return_sequences=2:", len(sampled.last_hidden_state))
unchanged = counts == {"one object": [(2, 2), (4, 4), (8, 8)], "copies": [(2, 2)] * 3}
raise SystemExit(not (unchanged and of_other == [True, False] and len(sampled.last_hidden_state) == 4))
PYTHON
