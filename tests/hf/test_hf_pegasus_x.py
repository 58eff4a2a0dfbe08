"""Pegasus-X under lckernels.patch: blocks of tokens, global tokens, and the decoder."""

# ruff: noqa: E402
import copy
import pickle

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.compare import assert_as_good_as
from helpers.hf_masks import LargestTensor
from helpers.hf_models import BART, PEGASUS_X, VOCAB
from helpers.visible_keys import set_one_hot, weights_of_keys

import lckernels
from lckernels.hf.reach import model_reach

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCK, GLOBAL = PEGASUS_X["block_size"], PEGASUS_X["num_global_tokens"]
PADDINGS = ("none", "left", "right", "middle")
LENGTHS = (1, BLOCK // 2, BLOCK - 1, BLOCK, BLOCK + 1, 21, 4 * BLOCK)
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def make(dtype=torch.float32, **sizes):
    torch.manual_seed(0)
    config = transformers.PegasusXConfig(vocab_size=VOCAB, **BART | PEGASUS_X | sizes)
    return transformers.PegasusXForConditionalGeneration(config).eval().to(dtype)


def inputs_of(seqlen, padding="none"):
    generator = torch.Generator().manual_seed(seqlen)
    ids = torch.randint(5, VOCAB, (2, seqlen), generator=generator)
    mask, some = torch.ones_like(ids), seqlen // 3
    hidden = {"none": slice(0), "left": slice(some), "right": slice(seqlen - some, None),
              "middle": slice(some, 2 * some)}  # fmt: skip
    mask[1, hidden[padding]] = 0
    return {"input_ids": ids, "attention_mask": mask}


def states(model, inputs):
    """Of all tokens, also those of padding: they see the global tokens."""
    with torch.no_grad():
        return model.get_encoder()(**inputs).last_hidden_state


def encoder_layers(model):
    return [layer.self_attn for layer in model.get_encoder().layers]


def close(ours, expected, tolerance=1e-5):
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("seqlen", LENGTHS)
def test_states(seqlen, padding):
    model, inputs = make(torch.float64), inputs_of(seqlen, padding)
    expected = states(model, inputs)
    lckernels.patch(model)
    close(states(model, inputs), expected, 1e-12)
    lckernels.unpatch(model)
    assert torch.equal(states(model, inputs), expected)


def test_the_report():
    model = make()
    for window in (None, 4):
        with lckernels.patched(model, window=window) as report:
            rows = {row.layer: (row.kind, row.verdict) for row in report.rows}
        assert len(rows) == 4
        for number in range(2):
            layer = f"model.encoder.layers.{number}.self_attn"
            assert rows[layer] == (f"bidirectional, chunks of {BLOCK}", "exact")
        assert rows["model.decoder.layers.0.self_attn"][1].startswith("exact" if window is None else "approx")
    assert str(model_reach(model.get_encoder())) == "not known: its global tokens see every token"


@pytest.mark.parametrize("patched", [False, True], ids=["stock", "patched"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("seqlen", LENGTHS)
def test_visible_keys(seqlen, padding, patched):
    """Read off the model itself: the tokens of a block, which every second layer moves by half a block."""
    sizes = {"d_model": 64, "encoder_attention_heads": 4}
    model, inputs = make(**sizes), inputs_of(seqlen, padding)
    for layer in model.get_encoder().layers:
        set_one_hot(layer.self_attn, PROJECTIONS)
        torch.nn.init.zeros_(layer.global_self_attn_layer_norm.weight)  # values of global tokens are 0
    if patched:
        lckernels.patch(model)
    valid = inputs["attention_mask"].bool()
    for layer, moved in zip(encoder_layers(model), (0, BLOCK // 2), strict=True):
        weights = [
            weights_of_keys(layer, lambda: states(model, inputs), "token_hidden_states", result)
            for result in (0, 1)
        ]
        of_tokens, of_global = (x[..., moved : moved + seqlen] for x in weights)
        blocks = (torch.arange(seqlen) + moved) // BLOCK
        visible = (blocks == blocks[:, None]) & valid[:, None]
        expected = visible / (visible.sum(-1, keepdim=True) + GLOBAL)
        close(of_tokens[:, moved : moved + seqlen], expected)
        close(of_global, (valid / (valid.sum(1, keepdim=True) + GLOBAL))[:, None].expand_as(of_global))


@pytest.mark.parametrize("sizes", [{"num_global_tokens": 1}, {"stagger_local_blocks": False}])
def test_sizes(sizes):
    model, inputs = make(torch.float64, **sizes), inputs_of(21, "middle")
    expected = states(model, inputs)
    lckernels.patch(model)
    close(states(model, inputs), expected, 1e-12)


def test_without_global_tokens():
    model, inputs = make(torch.float64, num_global_tokens=0), inputs_of(21, "middle")
    valid = inputs["attention_mask"].bool()
    expected = states(model, inputs)[valid]
    lckernels.patch(model)
    close(states(model, inputs)[valid], expected, 1e-12)


@pytest.mark.parametrize("checkpoints", [None, False, True], ids=["", "checkpoints", "reentrant"])
def test_gradients(checkpoints):
    def gradients(patched):
        model = make(torch.float64).train()
        if patched:
            lckernels.patch(model)
        if checkpoints is not None:
            model.gradient_checkpointing_enable({"use_reentrant": checkpoints})
        inputs = inputs_of(21, "right")
        model(**inputs, labels=inputs["input_ids"][:, :9].clone()).loss.backward()
        return {n: p.grad for n, p in model.named_parameters()}

    expected, ours = gradients(False), gradients(True)
    assert expected["model.encoder.embed_global.weight"].abs().max() > 0
    for key, want in expected.items():
        torch.testing.assert_close(ours[key], want, rtol=1e-8, atol=1e-10, msg=key)


def test_dropout():
    """Its probability is the layer's: the mean of many results is that without it."""
    model = make(torch.float64)
    lckernels.patch(model)
    layer = encoder_layers(model)[0]
    x, y, mask = (torch.randn(1, n, 32, dtype=torch.float64) for n in (2 * BLOCK, GLOBAL, 1))
    mask = torch.zeros(1, 2 * BLOCK, dtype=torch.float64)
    exact = torch.cat(layer(x, y, mask)[:2], 1).detach()
    layer.train()
    layer.dropout = 0.3
    with torch.no_grad():
        drawn = torch.stack([torch.cat(layer(x, y, mask)[:2], 1) for _ in range(400)])
    assert (drawn[0] - drawn[1]).abs().amax(-1).min() > 1e-4
    error = (drawn.mean(0) - exact).abs() / (drawn.std(0) / 400**0.5 + 1e-9)
    assert error.mean() < 1.5


def test_attention_weights():
    """They are the model's own, of blocks and of global tokens."""
    model, inputs = make(), inputs_of(21, "right")
    encoder = model.get_encoder()
    with torch.no_grad():
        expected = encoder(**inputs, output_attentions=True)
        lckernels.patch(model)
        ours = encoder(**inputs, output_attentions=True)
    assert len(ours.attentions) == 2
    for one, other in zip(ours.attentions, expected.attentions, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in other)
    assert torch.equal(ours.last_hidden_state, expected.last_hidden_state)


GENERATE = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_k": 5, "num_return_sequences": 2},
    "a cache of fixed size": {"cache_implementation": "static"},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "no cache": {"use_cache": False},
}


@pytest.mark.parametrize("mode", GENERATE)
def test_generate(mode):
    """From a padded batch whose length is no multiple of a block."""
    model, inputs = make(), inputs_of(21, "right")
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False} | GENERATE[mode]
    if mode == "prompt lookup":
        inputs = {name: x[1:] for name, x in inputs.items()}

    def generated():
        torch.manual_seed(0)
        return model.generate(**inputs, **options)

    expected = generated()
    report = lckernels.patch(model)
    assert report.exact and len(report.taken) == len(report.rows) == 4
    assert torch.equal(generated(), expected)
    assert len(set(expected[0].tolist())) > 2


def test_bf16():
    inputs = inputs_of(33, "right")
    half = make(torch.bfloat16)
    exact, honest = states(copy.deepcopy(half).float(), inputs), states(half, inputs)
    lckernels.patch(half)
    assert_as_good_as(states(half, inputs).float(), exact, honest.float())


@pytest.mark.parametrize("padding", ["none", "right"])
def test_compiled(padding):
    model, inputs = make(), inputs_of(21, padding)
    expected = states(model, inputs)
    lckernels.patch(model)
    torch._dynamo.reset()
    encoder = torch.compile(model.get_encoder(), backend="aot_eager")
    with torch.no_grad():
        close(encoder(**inputs).last_hidden_state, expected)


def test_copies_are_patched():
    model, inputs = make(), inputs_of(21, "right")
    expected = states(model, inputs)
    lckernels.patch(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        ours = states(copied, inputs)
        assert not torch.equal(ours, expected)  # of other operations
        close(ours, expected)
        lckernels.unpatch(copied)
        assert torch.equal(states(copied, inputs), expected)


def test_no_scores_in_memory():
    """In no layer are there scores, those within blocks included."""
    model, inputs = make(block_size=64, encoder_layers=1), inputs_of(2000)
    with LargestTensor() as own:
        states(model, inputs)
    lckernels.patch(model)
    with LargestTensor() as ours:
        states(model, inputs)
    assert own.elements >= 2 * 4 * 2000 * 64 > ours.elements


@pytest.mark.parametrize("implementation", ["lckernels", "model"])
def test_long_encoder(implementation):
    model, inputs = make(), inputs_of(21)
    long = lckernels.LongEncoder(model.get_encoder(), 30, 6, attention=implementation)
    with torch.no_grad():
        close(long(**inputs).last_hidden_state.flatten(0, 1), states(model, inputs).flatten(0, 1))
