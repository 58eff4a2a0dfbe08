#!/usr/bin/env bash
# Versions: transformers 5.24.0, torch 2.13.0 (CPU).
# Behaviour: the loss of transformers' extractive question answering heads is a softmax over all columns of the batch, padding
#   included: attention_mask does not reach it. The loss and the gradients of a document depend on how far it is padded, so
#   on the longest document of its batch, in training and in evaluation. Token and sequence classification do not have that.
# Seen on 2026-12-01 (random weights, one document of 40 tokens, padded to 40, 200 and 1,000): BERT 3.75, 5.38, 6.99; RoBERTa 3.69,
#   5.3, 6.91; DistilBERT 3.66, 5.28, 6.88; ELECTRA 3.68, 5.29, 6.9. The logits of the document's tokens agree to 3e-8.
# Instead: pad all documents to one length for losses that compare; or set the logits of padding to -inf and compute the loss of
#   both positions outside the model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.13.0 transformers==5.24.0 numpy
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import transformers

sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
sizes |= {"max_position_embeddings": 1024}
small = {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 1024}
models = {"Bert": sizes, "Roberta": {**sizes, "max_position_embeddings": 1026}, "DistilBert": small, "Electra": sizes}
LENGTH, CHANGED = 40, []
print("transformers", transformers.__version__, "torch", torch.__version__)
for name, options in models.items():
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**options, pad_token_id=1)
    model = getattr(transformers, f"{name}ForQuestionAnswering")(config).eval()
    ids = torch.randint(5, 64, (1, LENGTH))
    losses, logits = [], []
    for width in (40, 200, 1000):
        padded = torch.full((1, width), 1)
        padded[:, :LENGTH] = ids
        mask = (torch.arange(width) < LENGTH).long()[None]
        with torch.no_grad():
            answer = torch.tensor([7]), torch.tensor([9])
            found = model(input_ids=padded, attention_mask=mask, start_positions=answer[0], end_positions=answer[1])
        losses.append(round(float(found.loss), 2))
        logits.append(found.start_logits[:, :LENGTH])
    same = max(float((x - logits[0]).abs().max()) for x in logits)
    print(name, "loss by padded length:", losses, "logits of the tokens differ by", f"{same:.1e}")
    CHANGED.append(same < 1e-5 and losses[0] + 1 < losses[1] and losses[1] + 1 < losses[2])
if not all(CHANGED):
    raise SystemExit("the loss does not depend on padding: this finding is out of date")
PYTHON
