#!/usr/bin/env bash
# Versions: torch 2.13.0 (CPU), transformers 5.24.0 (5.17.0: the same).
# Behaviour: generate(prefill_chunk_size=N) on an encoder-decoder cuts the attention mask of the input, which is the mask of
#   the encoder's states, to the length of the decoder's first piece: one column. So the decoder attends to the padding
#   of the shorter rows of a batch. No error and no warning; batches without padding are not affected.
# Seen on 2026-11-30 (T5, random weights), the largest change of a logit of each of two rows by prefill_chunk_size=5:
#   no padding 0, 0; second row padded on the right 0, 0.54; on the left 0, 2.5
#   columns of the mask that the decoder's first step gets: 13 without prefill_chunk_size, 1 with it
# Instead: no prefill_chunk_size for an encoder-decoder, whose prompt is in the encoder.
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
config = transformers.T5Config(
    vocab_size=50, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4,
    decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
)
model = transformers.T5ForConditionalGeneration(config).eval()
ids = torch.randint(5, 50, (2, 13))
columns = []
model.decoder.register_forward_pre_hook(
    lambda module, args, kwargs: columns.append(kwargs["encoder_attention_mask"].shape[-1]), with_kwargs=True
)


def logits(mask, **options):
    """(batch, 4, vocab_size), and the columns of the mask in the decoder's first step."""
    columns.clear()
    output = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False,
        output_logits=True, return_dict_in_generate=True, **options,
    )
    return torch.stack(output.logits, 1), columns[0]


found = {}
for name, padding in (("no padding", slice(0)), ("right", slice(8, None)), ("left", slice(0, 5))):
    mask = torch.ones_like(ids)
    mask[1, padding] = 0
    (plain, whole), (pieces, cut) = logits(mask), logits(mask, prefill_chunk_size=5)
    found[name] = (plain - pieces).abs().amax((1, 2)).tolist()
    print(f"{name}: logits change by {[round(x, 2) for x in found[name]]}; columns of the mask: {whole} and {cut}")
changed = [[x > 1e-3 for x in rows] for rows in found.values()]
raise SystemExit(changed != [[False, False], [False, True], [False, True]] or (whole, cut) != (13, 1))
PYTHON
