#!/usr/bin/env bash
# Versions: ctranslate2 4.8.5, transformers 5.24.0, torch 2.13.0 (CPU).
# Behaviour: a converted Mistral with a sliding window of W, of two layers or more, has wrong logits after a prompt that is
#   longer than its window by more than a few tokens, and so generates other text. After prompts of at most W tokens the
#   logits are those of transformers.
# Seen on 2026-11-30 (random weights, float32, W = 8), largest difference of a logit from transformers:
#   prompts of 6, 8 and 9 tokens: at most 4e-06; of 12, 16 and 24 tokens: 0.39, 2.2, 0.87
# Instead: prompts of at most W tokens; for longer ones transformers, or a runtime whose logits were compared with it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.13.0 transformers==5.24.0 ctranslate2==4.8.5
"$folder/venv/bin/python" -W ignore - "$folder/model" <<'PYTHON'
import sys

import ctranslate2
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models

print("ctranslate2", ctranslate2.__version__, "transformers", transformers.__version__)
FOLDER, W = sys.argv[1], 8
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "initializer_range": 0.3}
torch.manual_seed(0)
config = transformers.MistralConfig(**SIZES, sliding_window=W, pad_token_id=0, bos_token_id=1, eos_token_id=2)
model = transformers.MistralForCausalLM(config).eval()
model.save_pretrained(FOLDER)
words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(64)}, unk_token="t3"))
names = {"pad_token": "t0", "bos_token": "t1", "eos_token": "t2", "unk_token": "t3"}
transformers.PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(FOLDER)
ctranslate2.converters.TransformersConverter(FOLDER).convert(f"{FOLDER}/converted")
generator = ctranslate2.Generator(f"{FOLDER}/converted", compute_type="float32", intra_threads=1)
ids = torch.randint(5, 64, (1, 24))


def difference(length):
    """Of the logits after a prompt of this length."""
    prompt = [f"t{i}" for i in ids[0, :length].tolist()]
    (result,) = generator.generate_batch([prompt], max_length=1, include_prompt_in_result=False, return_logits_vocab=True)
    with torch.no_grad():
        expected = model(ids[:, :length]).logits[0, -1].numpy()
    return float(np.abs(np.array(result.logits[0]) - expected).max())


found = {length: difference(length) for length in (6, 8, 9, 12, 16, 24)}
for length, size in found.items():
    print(f"window {W}, prompt of {length} tokens: {size:.2g}")
raise SystemExit([size > 1e-3 for size in found.values()] != [False, False, False, True, True, True])
PYTHON
