#!/usr/bin/env bash
# Versions: torch 2.13.0 (CPU), transformers 5.24.0.
# Behaviour: GPT-Neo with a cache of fixed size, cache_implementation="static": a local layer counts its window from the
#   last slot of the cache, not from the query, so that it sees none of the tokens that it should; generate returns
#   other tokens than with the default cache, without a message.
# Seen on 2026-11-30 (random weights), the first logit of 13 tokens that are followed by a window of 6:
#   GPT-Neo default 0.383, static -0.077; with global layers alone 0.458 and 0.458
# Instead: the default cache.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import transformers

print("torch", torch.__version__, "transformers", transformers.__version__)


def first_logits(kinds, cache):
    """The logits of the first new token."""
    torch.manual_seed(0)
    config = transformers.GPTNeoConfig(
        vocab_size=50, hidden_size=32, num_layers=2, attention_types=[[kinds, 1]], num_heads=4, window_size=6,
        max_position_embeddings=128, initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )
    model = transformers.GPTNeoForCausalLM(config).eval()
    ids = torch.randint(5, 50, (1, 13))
    options = {"cache_implementation": cache} if cache else {}
    new = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, output_logits=True,
        return_dict_in_generate=True, **options,
    )
    return new.logits[0][0]


found = {}
for kinds in (["global", "local"], ["global", "global"]):
    growing, static = (first_logits(kinds, cache) for cache in (None, "static"))
    found[kinds[1]] = (growing - static).abs().max().item()
    print(f"global and {kinds[1]}: first logit {growing[0]:.3f}, with a static cache {static[0]:.3f}")
raise SystemExit(not (found["local"] > 0.1 and found["global"] < 1e-4))
PYTHON
