#!/usr/bin/env bash
# Versions: torch 2.13.0 (CPU), transformers 5.24.0.
# Behaviour: RoFormerForMultipleChoice scores a choice by the last column of its row, whatever that holds: its config has
#   no summary_type, whose default is "last" (ConvBertForMultipleChoice has the same default). In a padded batch a
#   shorter choice is scored by the state of a padding token; the same row gets another score in each batch, and
#   attention_mask does not help. BERT, and ELECTRA, whose config has summary_type "first", read the first column.
# Seen on 2026-11-30 (random weights), the largest change of a score by 4 columns of masked padding:
#   RoFormer 0.71; Bert 1e-06, Electra 1e-06; RoFormer with summary_type="first" 8e-07
# Instead: config.summary_type = "first" before training, or choices of one length.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import transformers

print("torch", torch.__version__, "transformers", transformers.__version__)
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MORE = {"intermediate_size": 48, "embedding_size": 32, "max_position_embeddings": 32, "initializer_range": 0.3}


def change(name, **options):
    """How much the scores of two choices change with 4 columns of masked padding."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, **MORE, pad_token_id=0, **options)
    model = getattr(transformers, f"{name}ForMultipleChoice")(config).eval()
    ids = torch.randint(5, 64, (1, 2, 12))
    mask = torch.ones_like(ids)
    padded = [torch.nn.functional.pad(x, (0, 4)) for x in (ids, mask)]
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask).logits
        longer = model(input_ids=padded[0], attention_mask=padded[1]).logits
    print(f"{name} {options}: {[round(x, 4) for x in plain[0].tolist()]} alone, {[round(x, 4) for x in longer[0].tolist()]} padded")
    return (longer - plain).abs().max().item()


found = {name: change(name) for name in ("RoFormer", "Bert", "Electra")}
for name, size in found.items():
    print(f"{name}: scores change by {size:.2g}")
first = change("RoFormer", summary_type="first")
print(f"RoFormer with summary_type='first': {first:.2g}")
found["RoFormer, first"] = first
raise SystemExit([size > 1e-3 for size in found.values()] != [True, False, False, False])
PYTHON
