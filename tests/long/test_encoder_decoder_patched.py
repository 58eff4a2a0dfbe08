"""`patch` and `lengthen` of an encoder-decoder: cross attention over merged states runs on lckernels."""

# ruff: noqa: E402
from collections import Counter

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.hf_masks import LargestTensor
from helpers.seq2seq import CHUNK, SPECIAL, VOCAB, WITHOUT_POSITIONS, batch, build, row

import lckernels

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces:FutureWarning"),
]
STEPS = {"max_new_tokens": 4, "min_new_tokens": 4, "return_dict_in_generate": True, "output_scores": True}


class Keys(LargestTensor):
    """Also counts calls of lckernels' attention by their number of keys."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func) == "lckernels.windowed_attention.default":
            self.calls[args[1].shape[1]] += 1
        return super().__torch_dispatch__(func, types, args, kwargs)


def lengthen(model, name, **options):
    sizes = {"chunk_len": CHUNK} if name in WITHOUT_POSITIONS else {}
    lckernels.lengthen(model, special_tokens=SPECIAL[name], **sizes, **options)


@pytest.mark.parametrize("joints", [None, 7])
@pytest.mark.parametrize("first", ["patch", "lengthen"])
@pytest.mark.parametrize("name", SPECIAL)
def test_cross_attention_of_a_padded_batch(name, first, joints):
    """Two layers in each of four steps; no tensor is larger than the states of the beams."""
    rows = [row(length, SPECIAL[name]) for length in (400, 170)]
    model = build(name)
    model.set_attn_implementation("eager")  # T5Gemma of transformers 5.17 has no softcap under sdpa
    lengthen(model, name, joints=joints)
    with torch.no_grad():
        expected = model.generate(**batch(rows), **STEPS, num_beams=2)
    patched = build(name)
    if first == "patch":
        lckernels.patch(patched)
    lengthen(patched, name, joints=joints)
    if first == "lengthen":
        lckernels.patch(patched)
    with torch.no_grad(), Keys() as keys:
        output = patched.generate(**batch(rows), **STEPS, num_beams=2)
    num_states = max(keys.calls)
    assert num_states == 400 if joints is None else num_states > 400
    assert keys.calls[num_states] == 2 * 4
    assert keys.elements <= 4 * num_states * 16
    assert torch.equal(output.sequences, expected.sequences)
    for ours, scores in zip(output.scores, expected.scores, strict=True):
        torch.testing.assert_close(ours, scores, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_100_000_states():
    """A training step with 256 labels: no tensor has a value per label and state."""
    seqlen, labels = 100_000, torch.randint(8, VOCAB, (1, 256))
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=64, d_kv=16, d_ff=64, num_layers=2, num_heads=4, pad_token_id=0,
        eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(config)
    lckernels.lengthen(model, chunk_len=512, special_tokens=(0, 1), recompute=True)
    lckernels.patch(model)
    with Keys() as keys:
        model(input_ids=row(seqlen, (0, 1))[None], labels=labels).loss.backward()
    assert keys.calls[seqlen] == 2
    assert keys.elements < 256 * seqlen
    assert keys.elements <= 2 * seqlen * 64
