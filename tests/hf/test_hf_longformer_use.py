"""Longformer and LED under lckernels.patch: arguments, dtypes, copies, memory, the ways of global tokens."""

# ruff: noqa: E402
import copy
import pickle

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_checks import InFp64
from helpers.hf_masks import LargestTensor
from helpers.hf_parity import count_kernel_calls
from helpers.longformer import KINDS, attention_layers, close, encoder_of, inputs_of, make, states

import lckernels
from lckernels.hf import global_tokens, warn
from lckernels.hf.families import longformer as family

pytestmark = pytest.mark.usefixtures("one_thread")
of_each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize("shape", [(3, 22), (2, 23), (3, 23, 1), (23, 3)], ids=str)
@of_each_kind
def test_a_global_attention_mask_of_another_shape(kind, shape):
    model, inputs = make(kind), inputs_of(23)
    ran = []
    model.get_input_embeddings().register_forward_hook(lambda *_: ran.append(1))
    inputs["global_attention_mask"] = torch.zeros(shape, dtype=torch.long)
    lckernels.patch(model)
    said = r"global_attention_mask: got shape \(.*\); expected \(batch, seqlen\) = \(3, 23\)"
    with pytest.raises(ValueError, match=said):
        states(model, inputs)
    del inputs["input_ids"]
    with pytest.raises(ValueError, match=said):
        states(model, inputs | {"inputs_embeds": torch.zeros(3, 23, 32)})
    assert not ran


@of_each_kind
def test_a_global_attention_mask_that_the_model_broadcasts(kind):
    model, inputs = make(kind), inputs_of(23, padded=False)
    inputs["global_attention_mask"] = torch.zeros(1, 23, dtype=torch.long)
    inputs["global_attention_mask"][0, [0, 11]] = 1
    expected = states(model, inputs)
    with lckernels.patched(model):
        close(states(model, inputs), expected)


@of_each_kind
def test_embeddings_as_input(kind):
    model, inputs = make(kind), inputs_of(23, "others")
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids")).detach()
    expected = states(model, inputs)
    with lckernels.patched(model):
        close(states(model, inputs), expected)


def test_a_window_of_the_patch_leaves_longformers_own():
    with pytest.raises(TypeError, match="it has no full attention that a window could narrow"):
        lckernels.patch(make(), window=2)


def test_a_window_of_the_patch_changes_the_decoder_of_led_alone():
    model, inputs = make("led"), inputs_of(23, "others")
    expected = states(model, inputs)
    report = lckernels.patch(model, window=2)
    verdicts = {row.layer.split(".")[-1]: (row.window, row.verdict) for row in report.rows}
    assert verdicts["encoder_attn"][1] == "exact"
    assert verdicts["self_attn"] == ((1, 0), "approximate: causal attention with a window")
    own = [row for row in report.rows if row.layer.endswith("longformer_self_attn")]
    assert [(row.window, row.verdict) for row in own] == [((4, 4), "exact"), ((2, 2), "exact")]
    close(states(model, inputs), expected)


@pytest.mark.parametrize("tokens", ["none", "others"])
@of_each_kind
def test_attention_weights(kind, tokens):
    """Those of a window are the model's own, with a warning; a decoder's are those of eager attention."""
    model, inputs = make(kind), inputs_of(23, tokens)
    if kind == "led":
        inputs["decoder_input_ids"] = inputs["input_ids"][:, :9]
    with torch.no_grad():
        expected = model(**inputs, output_attentions=True)
        lckernels.patch(model)
        warn._warn.cache_clear()
        with pytest.warns(UserWarning, match="run as the model's own attention"):
            ours = model(**inputs, output_attentions=True)
    names = [name for name in expected if name.endswith("attentions")]
    assert len(names) == {"longformer": 1, "led": 3}[kind] + (tokens != "none")
    for name in names:
        for one, other in zip(ours[name], expected[name], strict=True):
            close(one, other)
    close(ours.last_hidden_state, expected.last_hidden_state)


@pytest.mark.parametrize("tokens", ["none", "others"])
@of_each_kind
def test_copies_are_patched(kind, tokens):
    model, inputs = make(kind), inputs_of(23, tokens)
    expected = states(model, inputs)
    lckernels.patch(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert count_kernel_calls(lambda one=copied: close(states(one, inputs), expected)) == 2
        lckernels.unpatch(copied)
        assert torch.equal(states(copied, inputs), expected)


@pytest.mark.parametrize("tokens", ["none", "first", "others", "many"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@of_each_kind
def test_half_precision(kind, dtype, tokens):
    inputs = inputs_of(45, tokens)
    valid = inputs["attention_mask"].bool()
    exact = states(make(kind, dtype).double(), inputs)[valid]
    of_model = states(make(kind, dtype), inputs)[valid]
    ours = make(kind, dtype)
    lckernels.patch(ours)
    error, of_stock = ((x.double() - exact).abs().max() for x in (states(ours, inputs)[valid], of_model))
    assert error <= 2 * of_stock + 1e-3


@pytest.mark.parametrize("tokens", ["none", "first", "others"])
@of_each_kind
def test_autocast(kind, tokens):
    model, inputs = make(kind), inputs_of(23, tokens)
    exact = states(make(kind, torch.float64), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        of_model = states(model, inputs)
        lckernels.patch(model)
        ours = states(model, inputs)
    error, of_stock = ((x.double() - exact).abs().max() for x in (ours, of_model))
    assert error <= 2 * of_stock + 1e-3


@pytest.mark.parametrize("tokens", ["none", "first", "others"])
@of_each_kind
def test_compiled(kind, tokens):
    """The model itself reads whether there are global tokens, so that it is no single graph."""
    model, inputs = make(kind), inputs_of(23, tokens)
    expected = states(model, inputs)
    lckernels.patch(model)
    torch._dynamo.reset()
    close(states(torch.compile(encoder_of(model), backend="aot_eager"), inputs), expected)


@pytest.mark.parametrize("tokens", ["none", "first", "others"])
@of_each_kind
def test_no_scores_in_memory(kind, tokens):
    model = make(
        kind, max_position_embeddings=2050, max_encoder_position_embeddings=2050, attention_window=64
    )
    inputs = inputs_of(2000, tokens)
    with LargestTensor() as own:
        states(model, inputs)
    lckernels.patch(model)
    with LargestTensor() as ours:
        states(model, inputs)
    assert own.elements >= 3 * 4 * 2000 * 64
    assert ours.elements <= 3 * 2048 * 32  # the states


@pytest.mark.parametrize("hooked", [False, True])
def test_the_feed_forward_runs_in_pieces(hooked, monkeypatch):
    """Without gradients, and where no hook sees it."""
    model, inputs = make(dtype=torch.float64), inputs_of(45, "others")
    expected = states(model, inputs)
    monkeypatch.setattr(family, "_PIECE_ROWS", 24 // torch.get_num_threads())
    seen = []
    layer = type(model.encoder.layer[0])
    own = layer.ff_chunk
    monkeypatch.setattr(layer, "ff_chunk", lambda self, x: seen.append(x[..., 0].numel()) or own(self, x))
    if hooked:
        model.encoder.layer[0].intermediate.dense.register_forward_hook(lambda *_: None)
    lckernels.patch(model)
    seen.clear()  # of the dry run
    close(states(model, inputs), expected)
    assert seen == ([3 * 48] if hooked else 6 * [24]) + 6 * [24]
    seen.clear()
    assert model(**inputs).last_hidden_state.requires_grad
    assert seen == [3 * 48, 3 * 48]


@pytest.mark.parametrize("change", ["hook", "subclass", "dropout", "many"])
def test_queries_of_global_tokens_by_projections_of_all_tokens(change, monkeypatch):
    """Where the layers are not plain linear ones, with dropout, and for many queries."""
    model, inputs = make(dtype=torch.float64), inputs_of(45, "many" if change == "many" else "others")
    seen = []
    for layer in attention_layers(model):
        if change == "hook":
            layer.key_global.register_forward_hook(lambda *args: seen.append(1))
        if change == "subclass":
            layer.key_global.__class__ = type("Other", (torch.nn.Linear,), {})
        if change == "dropout":
            layer.train()
            layer.dropout = 1e-12
    own, widths = global_tokens.windowed_attention, []
    monkeypatch.setattr(
        global_tokens, "windowed_attention",
        lambda q, *args, **options: widths.append(q.shape[3]) or own(q, *args, **options),
    )  # fmt: skip
    with InFp64():
        expected = states(model, inputs)
        seen.clear()
        lckernels.patch(model)
        close(states(model, inputs), expected, 1e-9)
    assert set(widths) == {8}
    assert len(seen) == 2 * (change == "hook")


def test_queries_of_few_global_tokens_see_the_states_themselves(monkeypatch):
    model, inputs = make(), inputs_of(45, "others")
    own, widths = global_tokens.windowed_attention, []
    monkeypatch.setattr(
        global_tokens, "windowed_attention",
        lambda q, *args, **options: widths.append(q.shape[3]) or own(q, *args, **options),
    )  # fmt: skip
    with lckernels.patched(model):
        states(model, inputs)
    assert widths == [8, 32] * 2  # keys of global tokens, then their queries, in each layer


@of_each_kind
def test_backend(kind):
    model, inputs = make(kind), inputs_of(23, "others")
    expected = states(model, inputs)
    report = lckernels.patch(model, backend="eager")
    assert {row.backend for row in report.rows} == {"eager"}
    close(states(model, inputs), expected)


@of_each_kind
def test_packed_linear_layers(kind):
    model, inputs = make(kind), inputs_of(45, "others")
    expected = states(model, inputs)
    lckernels.patch(model, linear="packed")
    close(states(model, inputs), expected)


@of_each_kind
def test_the_config_is_the_models(kind):
    model = make(kind)
    config = model.config
    lckernels.patch(model)
    assert model.config is config
    assert config._attn_implementation == "eager"
    assert type(config).from_dict(config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("implementation", ["lckernels", "model"])
@of_each_kind
def test_long_encoder(kind, implementation, patched):
    model, inputs = encoder_of(make(kind)), inputs_of(45, padded=False)
    expected = states(model, inputs)
    if patched:
        lckernels.patch(model)
    long = lckernels.LongEncoder(model, 64, 8, attention=implementation)
    with torch.no_grad():
        close(long(**inputs).last_hidden_state, expected)
