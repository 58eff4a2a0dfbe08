"""GPT-Neo under lckernels.patch: global and local layers with attention of their own."""

# ruff: noqa: E402
import copy
import pickle

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.compare import assert_as_good_as
from helpers.hf_masks import LargestTensor
from helpers.hf_models import WINDOW, build
from helpers.hf_patched import IDS, MASK, VALID, close, logits, with_cache
from helpers.visible_keys import set_one_hot, weights_of_keys
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoFlashAttention2

import lckernels
from lckernels.hf import warn

pytestmark = pytest.mark.usefixtures("one_thread")

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
PADDED = {"input_ids": IDS, "attention_mask": MASK}


def make(dtype=torch.float32):
    return build("gpt_neo").to(dtype)


def layers(model):
    return [block.attn.attention for block in model.transformer.h]


@pytest.fixture
def in_fp64(monkeypatch):
    """The scores, which the layer computes in fp32, in the dtype of its queries."""
    own = torch.Tensor.to

    def to(x, *args, **kwargs):
        return x if x.dtype == torch.float64 and args == (torch.float32,) else own(x, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", to)


def test_the_report():
    model = make()
    with lckernels.patched(model) as report:
        rows = [(row.layer, row.kind, row.window, row.verdict) for row in report.rows]
    assert rows == [
        ("transformer.h.0.attn.attention", "causal", (-1, 0), "exact"),
        ("transformer.h.1.attn.attention", "causal window", (WINDOW - 1, 0), "exact"),
    ]
    with lckernels.patched(model, window=4, sink_tokens=1) as report:
        verdicts = [row.verdict for row in report.rows]
    assert verdicts[0].startswith("approximate: causal attention with a window and 1 sink")
    assert verdicts[1] == "exact"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seqlen", [1, 2, WINDOW - 1, WINDOW, WINDOW + 1, 21])
def test_states(seqlen, in_fp64):
    model = make(torch.float64)
    inputs = {name: x[:, -seqlen:] for name, x in PADDED.items()}
    expected = logits(model, **inputs)
    lckernels.patch(model)
    valid = VALID[:, -seqlen:]
    torch.testing.assert_close(logits(model, **inputs)[valid], expected[valid], rtol=1e-12, atol=1e-12)
    lckernels.unpatch(model)
    assert torch.equal(logits(model, **inputs), expected)


@pytest.mark.parametrize("patched", [False, True], ids=["stock", "patched"])
@pytest.mark.parametrize("kind", ["global", "local"])
def test_visible_keys(kind, patched):
    """Read off the model itself: keys i - window_size + 1 to i, without the padding in front."""
    model, seqlen = make(), IDS.shape[1]
    layer = layers(model)[kind == "local"]
    set_one_hot(layer, PROJECTIONS)
    if patched:
        lckernels.patch(model)
    weights = weights_of_keys(layer, lambda: model(**PADDED))
    keys, queries = torch.arange(seqlen), torch.arange(seqlen)[:, None]
    visible = (keys <= queries) & (keys > queries - (WINDOW if kind == "local" else seqlen))
    visible = visible & VALID[:, None]
    assert torch.equal((weights > 0)[VALID], visible[VALID])
    close(weights, visible / visible.sum(-1, keepdim=True))


def test_a_window_of_the_patch():
    """A global layer narrowed to the local one's window: the model with two local layers."""
    model = make()
    config = copy.deepcopy(model.config)
    config.attention_types = [[["local"], 2]]
    config.attention_layers = ["local", "local"]
    local = type(model)(config).eval()
    local.load_state_dict(model.state_dict())
    expected = logits(local)
    lckernels.patch(model, window=WINDOW)
    close(logits(model), expected)


GENERATE = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_k": 5, "num_return_sequences": 2},
    "a chunked prefill": {"prefill_chunk_size": 4},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "no cache": {"use_cache": False},
}


@pytest.mark.parametrize("mode", GENERATE)
def test_generate(mode):
    model, options = make(), {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False} | GENERATE[mode]
    rows = slice(1) if mode == "prompt lookup" else slice(None)
    inputs = {name: x[rows] for name, x in PADDED.items()}

    def generated():
        torch.manual_seed(0)
        return model.generate(**inputs, **options)

    expected = generated()
    lckernels.patch(model)
    assert torch.equal(generated(), expected)


def test_a_cache_of_fixed_size():
    """As with a growing cache; the model's own code counts the window from the cache's last slot."""
    model = make()
    options = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False}
    expected = model.generate(**PADDED, **options)
    own = model.generate(**PADDED, **options, cache_implementation="static")
    lckernels.patch(model)
    assert torch.equal(model.generate(**PADDED, **options, cache_implementation="static"), expected)
    assert not torch.equal(own, expected)


@pytest.mark.parametrize("padded", [False, True])
def test_steps_with_a_cache(padded):
    """One token at a time and in pieces: the logits of the whole sequence."""
    model = make()
    inputs = dict(PADDED) if padded else {"input_ids": IDS}
    expected = logits(model, **inputs)
    lckernels.patch(model)
    cache, parts = transformers.DynamicCache(config=model.config), []
    for start, end in ((0, 9), (9, 10), (10, 11), (11, 16), (16, 21)):
        part = {"input_ids": IDS[:, start:end]}
        if padded:
            part["attention_mask"] = MASK[:, :end]
        parts.append(logits(model, **part, use_cache=True, **with_cache(model, cache)))
    close(torch.cat(parts, 1), expected, VALID if padded else slice(None))


@pytest.mark.parametrize("checkpoints", [None, False, True], ids=["", "checkpoints", "reentrant"])
def test_gradients(checkpoints, in_fp64):
    def gradients(patched):
        model = make(torch.float64).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if patched:
            lckernels.patch(model)
        if checkpoints is not None:
            model.gradient_checkpointing_enable({"use_reentrant": checkpoints})
        right = {"input_ids": IDS.flip(1), "attention_mask": MASK.flip(1)}
        labels = right["input_ids"].masked_fill(right["attention_mask"] == 0, -100)
        model(**right, labels=labels).loss.backward()
        return {n: p.grad for n, p in model.named_parameters()}

    expected, ours = gradients(False), gradients(True)
    for key, want in expected.items():
        torch.testing.assert_close(ours[key], want, rtol=1e-8, atol=1e-10, msg=key)


def test_dropout():
    """Its probability is the layer's: the mean of many results is that without it."""
    model = make(torch.float64)
    lckernels.patch(model)
    layer = layers(model)[1]
    layer.attn_dropout.p = 0.3
    x = torch.randn(1, 21, 32, dtype=torch.float64)
    exact = layer(x)[0]
    layer.train()
    layer.resid_dropout.p = 0.0
    drawn = torch.stack([layer(x)[0].detach() for _ in range(400)])
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3
    error = (drawn.mean(0) - exact).abs() / (drawn.std(0) / 400**0.5 + 1e-9)
    assert error.mean() < 1.5


def test_bf16():
    """The model's own scores are in fp32 too: at most twice its error against fp32 with the same weights."""
    half = make(torch.bfloat16)
    exact = logits(copy.deepcopy(half).float(), **PADDED)[VALID]
    honest = logits(half, **PADDED)[VALID]
    lckernels.patch(half)
    assert_as_good_as(logits(half, **PADDED)[VALID].float(), exact, honest.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_weights(dtype):
    model = make(dtype)
    with torch.no_grad():
        expected = model(**PADDED, output_attentions=True)
        lckernels.patch(model)
        warn._warn.cache_clear()
        with pytest.warns(UserWarning, match="requires all attention weights"):
            ours = model(**PADDED, output_attentions=True)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for one, other in zip(ours.attentions, expected.attentions, strict=True):
        rows = VALID[:, None].expand(one.shape[:3])
        torch.testing.assert_close(one[rows], other[rows], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("form", ["bool", "float"])
@pytest.mark.filterwarnings("ignore:a dense 4-D mask")
def test_a_dense_mask_of_the_user(form):
    """The layer restricts it to its own keys."""
    model = make()
    visible = torch.ones(21, 21, dtype=torch.bool)
    visible[:, 4:7] = False
    visible.fill_diagonal_(True)
    numbers = torch.zeros(21, 21).masked_fill(~visible, torch.finfo(torch.float32).min)[None, None]
    expected = logits(model, input_ids=IDS, attention_mask=numbers.expand(2, 1, -1, -1))
    lckernels.patch(model)
    mask = visible[None, None] if form == "bool" else numbers
    close(logits(model, input_ids=IDS, attention_mask=mask.expand(2, 1, -1, -1)), expected, slice(None))


def test_a_layer_without_a_mask():
    model, x = make(), torch.randn(2, 9, 32)
    expected = [layer(x)[0] for layer in layers(model)]
    lckernels.patch(model)
    for layer, want in zip(layers(model), expected, strict=True):
        close(layer(x)[0], want, slice(None))


@pytest.mark.parametrize("inputs", ["whole", "padded", "packed"])
def test_compiled(inputs):
    positions = torch.cat([torch.arange(9), torch.arange(12)]).expand(2, -1).clone()
    given = {
        "whole": {"input_ids": IDS},
        "padded": PADDED,
        "packed": {"input_ids": IDS, "position_ids": positions},
    }[inputs]
    model = make()
    expected = logits(model, **given, use_cache=False)
    lckernels.patch(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    close(logits(compiled, **given, use_cache=False), expected, VALID if inputs == "padded" else slice(None))


def test_compiled_weights_of_packed_sequences():
    """As dense attention, whose mask has the window too."""
    model = make()
    positions = torch.cat([torch.arange(9), torch.arange(12)]).expand(2, -1).clone()
    given = {"input_ids": IDS, "position_ids": positions, "use_cache": False, "output_attentions": True}
    expected = logits(model, **given)
    lckernels.patch(model)
    torch._dynamo.reset()
    close(logits(torch.compile(model, backend="aot_eager"), **given), expected, slice(None))


def test_flash_attention_of_the_model():
    """A layer of the class for flash attention has the same result: that of eager attention."""
    model = make()
    expected = logits(model)
    for layer in layers(model):
        layer.__class__ = GPTNeoFlashAttention2
    lckernels.patch(model)
    close(logits(model), expected)


def test_copies_are_patched():
    model = make()
    expected = logits(model)
    lckernels.patch(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        ours = logits(copied)
        assert not torch.equal(ours, expected)  # of other operations
        close(ours, expected)
        lckernels.unpatch(copied)
        assert torch.equal(logits(copied), expected)


def test_no_scores_in_memory():
    model = make()
    x = torch.randn(1, 120, 32)
    with LargestTensor() as own, torch.no_grad():
        layers(model)[1](x)
    lckernels.patch(model)
    with LargestTensor() as ours, torch.no_grad():
        layers(model)[1](x)
    assert own.elements >= 4 * 120 * 120 > 120 * 120 > ours.elements
