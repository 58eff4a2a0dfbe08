"""LongT5's encoder under lckernels.patch: a window with a bias by distance, alone or with sums of blocks."""

# ruff: noqa: E402
import copy
import pickle

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_masks import LargestTensor
from helpers.hf_models import T5, VOCAB

import lckernels
from lckernels.hf import warn
from lckernels.hf.interface import attention
from lckernels.hf.masks.descriptor import NotServed

pytestmark = pytest.mark.usefixtures("one_thread")

RADIUS, BLOCK = 4, 4
LENGTHS = (1, 4, 5, 6, 10, 21, 33)
PADDINGS = ("none", "left", "right", "middle")
LOCAL, GLOBAL = KINDS = ("local", "transient-global")
of_each_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind=LOCAL, dtype=torch.float32, cls="LongT5EncoderModel", **sizes):
    torch.manual_seed(0)
    sizes = {"local_radius": RADIUS, "global_block_size": BLOCK, "encoder_attention_type": kind} | sizes
    config = transformers.LongT5Config(vocab_size=VOCAB, **T5 | sizes)
    model = getattr(transformers, cls)(config).eval().to(dtype)
    for name, weight in model.named_parameters():
        if "relative_attention_bias" in name:
            torch.nn.init.normal_(weight, std=2)
    return model


@pytest.fixture
def in_fp64(monkeypatch):
    """The layer's own softmax, which it computes in fp32, in the dtype of its scores."""
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x)


def inputs_of(seqlen, padding="none"):
    generator = torch.Generator().manual_seed(seqlen)
    ids = torch.randint(5, VOCAB, (2, seqlen), generator=generator)
    mask, some = torch.ones_like(ids), seqlen // 3
    hidden = {
        "none": slice(0),
        "left": slice(some),
        "right": slice(seqlen - some, None),
        "middle": slice(some, 2 * some),
    }
    mask[1, hidden[padding]] = 0
    return {"input_ids": ids, "attention_mask": mask}


def states(model, inputs):
    """Of the tokens, without the rows of padding."""
    with torch.no_grad():
        return model(**inputs).last_hidden_state[inputs["attention_mask"].bool()]


def close(ours, expected, tolerance=1e-5):
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("seqlen", LENGTHS)
def test_states(seqlen, padding, in_fp64):
    model, inputs = make(dtype=torch.float64), inputs_of(seqlen, padding)
    expected = states(model, inputs)
    report = lckernels.patch(model)
    close(states(model, inputs), expected, 1e-12)
    assert {(row.window, row.verdict) for row in report.rows} == {((RADIUS, RADIUS), "exact")}
    lckernels.unpatch(model)
    assert torch.equal(states(model, inputs), expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("missing", [0, 1, 2, 3, 4, 7, 20])
@pytest.mark.parametrize("seqlen", (*LENGTHS, 3, 7, 8, 64, 71))
def test_sums_of_blocks(seqlen, missing, in_fp64):
    """Rows that end after a block or within one, or with fewer tokens than a block; all buckets."""
    model, inputs = make(GLOBAL, torch.float64), inputs_of(seqlen)
    inputs["attention_mask"][1, max(1, seqlen - missing) :] = 0
    expected = states(model, inputs)
    report = lckernels.patch(model)
    close(states(model, inputs), expected, 1e-12)
    assert {(row.window, row.verdict) for row in report.rows} == {((RADIUS, RADIUS), "exact")}


@pytest.mark.parametrize("padding", ["left", "middle"])
def test_sums_with_padding_before_a_token_are_the_models(padding):
    """Its blocks are then not those of the tokens."""
    model, inputs = make(GLOBAL), inputs_of(21, padding)
    expected = states(model, inputs)
    lckernels.patch(model)
    warn._warn.cache_clear()
    with pytest.warns(UserWarning, match="padding before a token"):
        assert torch.equal(states(model, inputs), expected)


@pytest.mark.parametrize("sizes", [{"global_block_size": 6}, {"relative_attention_num_buckets": 40}])
def test_sums_that_are_the_models(sizes):
    """Blocks counted in floats with rounding; buckets without a last distance."""
    model, inputs = make(GLOBAL, cls="LongT5ForConditionalGeneration", **sizes), inputs_of(33)
    expected = states(model.encoder, inputs)
    report = lckernels.patch(model)
    left = [row for row in report.rows if row.verdict.startswith("left: its code does not go through")]
    assert [row.layer.split(".")[-1] for row in left] == ["TransientGlobalSelfAttention"] * 2
    assert torch.equal(states(model.encoder, inputs), expected)
    with pytest.raises(TypeError, match="a patch would do nothing"):
        lckernels.patch(make(GLOBAL, **sizes))


def test_a_layer_is_attention_over_a_band():
    """Its definition again: keys at a distance of at most local_radius, a bias by the distance's bucket."""
    model, inputs = make(dtype=torch.float64), inputs_of(21, "middle")
    layer = model.encoder.block[0].layer[0].LocalSelfAttention
    lckernels.patch(model)
    seen = {}
    layer.register_forward_hook(lambda _, args, out: seen.update(x=args[0], out=out[0]))
    states(model, inputs)
    x, valid = seen["x"], inputs["attention_mask"].bool()
    q, k, v = (f(x).unflatten(-1, (4, 8)).transpose(1, 2) for f in (layer.q, layer.k, layer.v))
    distance = torch.arange(21) - torch.arange(21)[:, None]
    buckets = type(layer)._relative_position_bucket(distance, True, 8, 9)
    scores = q @ k.mT + layer.relative_attention_bias(buckets).permute(2, 0, 1)
    hidden = (distance.abs() > RADIUS) | ~valid[:, None, None, :]
    out = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
    close(seen["out"][valid], layer.o(out.transpose(1, 2).flatten(2))[valid], 1e-12)


def test_the_band_is_not_wider():
    """A change of one token reaches the states of local_radius tokens per layer on either side."""
    model = make(dtype=torch.float64, num_layers=1)
    lckernels.patch(model)
    inputs = inputs_of(33)
    before = states(model, inputs).view(2, 33, -1)
    inputs["input_ids"][:, 16] = 3
    changed = (states(model, inputs).view(2, 33, -1) != before).any(-1)
    assert changed[0].nonzero().flatten().tolist() == list(range(16 - RADIUS, 17 + RADIUS))


@of_each_kind
@pytest.mark.parametrize("checkpoints", [None, False, True], ids=["", "checkpoints", "reentrant"])
def test_gradients(kind, checkpoints, in_fp64):
    def gradients(patched):
        model = make(kind, torch.float64, "LongT5ForConditionalGeneration").train()
        if patched:
            lckernels.patch(model)
        if checkpoints is not None:
            model.gradient_checkpointing_enable({"use_reentrant": checkpoints})
        inputs = inputs_of(21, "right")
        model(**inputs, labels=inputs["input_ids"][:, :9].clone()).loss.backward()
        return {n: p.grad for n, p in model.named_parameters()}

    expected, ours = gradients(False), gradients(True)
    assert sum("encoder" in name and "relative_attention_bias" in name for name in expected) == 1 + (
        kind == GLOBAL
    )
    for key, want in expected.items():
        torch.testing.assert_close(ours[key], want, rtol=1e-8, atol=1e-10, msg=key)


@of_each_kind
def test_dropout(kind, in_fp64):
    """Its probability is the layer's: with it the states differ, and their mean is that without it."""
    model, inputs = make(kind, torch.float64, num_layers=1), inputs_of(21)
    (layer,) = (
        module for module in model.modules() if hasattr(module, "local_radius") and hasattr(module, "q")
    )
    expected = states(model, inputs)
    lckernels.patch(model)
    seen = []
    layer.register_forward_hook(lambda _, args, out: seen.append(out[0].detach()))
    states(model, inputs)
    layer.train()
    layer.dropout = 0.3
    for _ in range(400):
        states(model, inputs)
    exact, drawn = seen[0], torch.stack(seen[1:])
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3
    error = (drawn.mean(0) - exact).abs() / (drawn.std(0) / 400**0.5 + 1e-9)
    assert error.mean() < 1.5
    layer.eval()
    close(states(model, inputs), expected, 1e-12)


def test_a_window_of_the_patch_leaves_local_layers():
    model = make(cls="LongT5ForConditionalGeneration")
    inputs = inputs_of(21, "right")
    expected = states(model.encoder, inputs)
    report = lckernels.patch(model, window=2)
    rows = {row.layer.split(".")[-1]: row for row in report.rows}
    assert rows["LocalSelfAttention"].verdict == "exact"
    assert rows["SelfAttention"].verdict.startswith("approximate")
    close(states(model.encoder, inputs), expected)


@of_each_kind
def test_attention_weights(kind):
    """They are the model's own, by blocks."""
    model, inputs = make(kind), inputs_of(21, "right")
    with torch.no_grad():
        expected = model(**inputs, output_attentions=True)
        lckernels.patch(model)
        ours = model(**inputs, output_attentions=True)
    for one, other in zip(ours.attentions, expected.attentions, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(ours.last_hidden_state, expected.last_hidden_state)


@of_each_kind
def test_copies_are_patched(kind):
    model, inputs = make(kind), inputs_of(21, "right")
    expected = states(model, inputs)
    lckernels.patch(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        ours = states(copied, inputs)
        assert not torch.equal(ours, expected)  # of other operations
        close(ours, expected)
        lckernels.unpatch(copied)
        assert torch.equal(states(copied, inputs), expected)


@of_each_kind
def test_bf16(kind):
    inputs = inputs_of(33, "right")
    exact = states(make(kind, torch.bfloat16).double(), inputs)
    of_model = states(make(kind, torch.bfloat16), inputs)
    ours = make(kind, torch.bfloat16)
    lckernels.patch(ours)
    error, of_eager = ((x.double() - exact).abs().max() for x in (states(ours, inputs), of_model))
    assert error <= 2 * of_eager + 1e-3


@of_each_kind
def test_compiled(kind):
    """Transient-global attention as the model's own: the trace cannot read where the padding is."""
    model, inputs = make(kind), inputs_of(21, "right")
    expected = states(model, inputs)
    lckernels.patch(model)
    torch._dynamo.reset()
    close(states(torch.compile(model, backend="aot_eager"), inputs), expected)


@of_each_kind
def test_no_scores_in_memory(kind):
    model, inputs = make(kind, num_layers=1), inputs_of(2000)
    with LargestTensor() as own:
        states(model, inputs)
    lckernels.patch(model)
    with LargestTensor() as ours:
        states(model, inputs)
    scores = 2 * 4 * 2000 * 3 * (RADIUS + 1)
    assert own.elements >= scores > ours.elements


@of_each_kind
@pytest.mark.parametrize("implementation", ["lckernels", "model"])
def test_long_encoder(implementation, kind):
    model, inputs = make(kind), inputs_of(21)
    long = lckernels.LongEncoder(model, 30, 6, attention=implementation)
    with torch.no_grad():
        close(long(**inputs).last_hidden_state.flatten(0, 1), states(model, inputs))


def test_other_keys_require_a_descriptor():
    """A call that runs as dense attention would leave them out."""
    q = torch.zeros(1, 2, 3, 8)
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    with pytest.raises(NotServed, match="other_keys: got a function"):
        attention(torch.nn.Identity(), q, q, q, mask, other_keys=lambda: None)
