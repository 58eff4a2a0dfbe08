"""Which keys LongT5's encoder sees at its edges, read off the model and off the patched model; generate."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_models import T5, VOCAB
from helpers.visible_keys import set_one_hot, weights_of_keys

import lckernels
from lckernels.hf.reach import model_reach

pytestmark = pytest.mark.usefixtures("one_thread")

RADIUS, BLOCK = 4, 4
LOCAL, GLOBAL = KINDS = ("local", "transient-global")
# No multiple of radius + 1 or of the block of sums, but for 20; 3 is shorter than both.
LENGTHS = (1, 3, 5, 6, 11, 20, 22, 33)
each_model = pytest.mark.parametrize("patched", [False, True], ids=["stock", "patched"])


def make(kind, cls="LongT5EncoderModel", **sizes):
    torch.manual_seed(0)
    sizes = {"local_radius": RADIUS, "global_block_size": BLOCK, "encoder_attention_type": kind} | sizes
    config = transformers.LongT5Config(vocab_size=VOCAB, pad_token_id=0, eos_token_id=2, **T5 | sizes)
    return getattr(transformers, cls)(config).eval()


def weights_of(kind, mask, patched):
    """The weight of each key in an encoder of one layer; its heads together are as wide as the states."""
    model = make(kind, num_layers=1, d_model=64, d_kv=16, num_heads=4)
    block = model.encoder.block[0].layer[0]
    layer = block.LocalSelfAttention if kind == LOCAL else block.TransientGlobalSelfAttention
    set_one_hot(layer, ("q", "k", "v", "o"))
    for table in ("relative_attention_bias", "global_relative_attention_bias"):
        if hasattr(layer, table):
            torch.nn.init.zeros_(getattr(layer, table).weight)
    layer.global_input_layer_norm = torch.nn.Identity()  # a sum of one-hot states stays one
    if patched:
        lckernels.patch(model)
    ids = torch.full_like(mask, 7)
    return weights_of_keys(layer, lambda: model(input_ids=ids, attention_mask=mask))


def mask_of(seqlen, padding):
    mask, some = torch.ones(2, seqlen, dtype=torch.long), seqlen // 3
    hidden = {"none": slice(0), "left": slice(some), "right": slice(seqlen - some, None),
              "middle": slice(some, 2 * some)}  # fmt: skip
    mask[1, hidden[padding]] = 0
    return mask


def window_of(valid):
    """Keys at a distance of at most RADIUS that are tokens."""
    places = torch.arange(valid.shape[1])
    return ((places - places[:, None]).abs() <= RADIUS) & valid[:, None]


@each_model
@pytest.mark.parametrize("padding", ["none", "left", "right", "middle"])
@pytest.mark.parametrize("seqlen", LENGTHS)
def test_local(seqlen, padding, patched):
    """A token sees the tokens up to `local_radius` on either side, wherever its block ends."""
    mask = mask_of(seqlen, padding)
    valid = mask.bool()
    weights = weights_of(LOCAL, mask, patched)
    visible = window_of(valid)
    torch.testing.assert_close(weights[valid], (visible / visible.sum(-1, keepdim=True))[valid])


@each_model
@pytest.mark.parametrize("padding", ["none", "right"])
@pytest.mark.parametrize("seqlen", LENGTHS)
def test_sums_of_blocks(seqlen, padding, patched):
    """Beside the window, one key for each whole block; tokens after the last one belong to it."""
    mask = mask_of(seqlen, padding)
    valid = mask.bool()
    weights = weights_of(GLOBAL, mask, patched)
    window, blocks = window_of(valid).float(), valid.sum(1) // BLOCK
    in_sums = valid & (blocks > 0)[:, None]
    keys = window.sum(-1) + blocks[:, None]
    expected = (window + in_sums[:, None]) / keys[..., None]
    torch.testing.assert_close(weights[valid], expected[valid])


GENERATE = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_k": 5, "num_return_sequences": 2},
    "a cache of fixed size": {"cache_implementation": "static"},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "no cache": {"use_cache": False},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", GENERATE)
def test_generate(mode, kind):
    """From a padded batch whose length is no multiple of a block."""
    model = make(kind, "LongT5ForConditionalGeneration", num_layers=2)
    for parameter in model.parameters():  # else generate repeats one token
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    rows = slice(1, 2) if mode == "prompt lookup" else slice(None)
    ids = torch.randint(5, VOCAB, (2, 22), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids[rows], "attention_mask": mask_of(22, "right")[rows]}
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False} | GENERATE[mode]

    def generated():
        torch.manual_seed(0)
        return model.generate(**inputs, **options)

    expected = generated()
    report = lckernels.patch(model)
    assert report.exact and len(report.taken) == 6
    assert torch.equal(generated(), expected)
    assert len(set(expected[0].tolist())) > 2
    lckernels.unpatch(model)
    assert torch.equal(generated(), expected)


def test_the_reach_of_sums_is_not_known():
    """A token sees sums of all blocks, beyond its window."""
    assert model_reach(make(LOCAL)).total == (2 * RADIUS, 2 * RADIUS)
    assert str(model_reach(make(GLOBAL))) == "not known: its tokens see sums of all blocks"
