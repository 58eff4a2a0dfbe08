"""Longformer and LED's encoder under lckernels.patch: a window beside tokens with global attention."""

# ruff: noqa: E402
import copy
import pickle

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_checks import InFp64
from helpers.hf_masks import LargestTensor
from helpers.hf_parity import count_kernel_calls

import lckernels
from lckernels.hf import global_tokens, warn
from lckernels.hf.families import longformer as family

pytestmark = pytest.mark.usefixtures("one_thread")

VOCAB, PAD, SEP, SIDE = 50, 1, 2, 4
WINDOWS = (2 * SIDE, 2 * SIDE - 4)
LENGTHS = (1, 8, 9, 23, 24, 45)
KINDS = ("longformer", "led")
of_each_kind = pytest.mark.parametrize("kind", KINDS)
# Positions of global tokens in each of three rows; -1 is the first token after padding.
GLOBAL = {
    "none": None,
    "first": [[-1], [-1], [-1]],
    "first two": [[-1, 1], [-1, 1], [-1, 1]],
    "others": [[-1, 20], [3], []],
    "many": [range(0, 45, 2), [5], range(30)],
    "all": [range(45)] * 3,
}


def make(kind="longformer", dtype=torch.float32, cls="", **sizes):
    torch.manual_seed(0)
    common = {"vocab_size": VOCAB, "pad_token_id": PAD, "attention_window": list(WINDOWS)}
    if kind == "longformer":
        of_kind = {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
            "max_position_embeddings": 130, "initializer_range": 0.2, "sep_token_id": SEP,
            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        }  # fmt: skip
    else:
        of_kind = {
            "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "init_std": 0.2,
            "max_encoder_position_embeddings": 128, "max_decoder_position_embeddings": 64, "dropout": 0.0,
            "attention_dropout": 0.0,
        }  # fmt: skip
    prefix = {"longformer": "Longformer", "led": "LED"}[kind]
    config = getattr(transformers, f"{prefix}Config")(**common | of_kind | sizes)
    model = getattr(transformers, cls or f"{prefix}Model")(config).eval().to(dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs_of(seqlen, kind="none", padded=True):
    generator = torch.Generator().manual_seed(seqlen)
    ids = torch.randint(3, VOCAB, (3, seqlen), generator=generator)
    mask, some = torch.ones_like(ids), seqlen // 3
    if padded:
        mask[1, seqlen - some :] = 0
        mask[2, :some] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if GLOBAL[kind] is not None:
        tokens = torch.zeros_like(ids)
        for row, columns in enumerate(GLOBAL[kind]):
            first = int(mask[row].argmax())
            columns = [first if c == -1 else c + first * (kind == "first two") for c in columns]
            tokens[row, [c for c in columns if c < seqlen]] = 1
        inputs["global_attention_mask"] = tokens
    return inputs


def encoder_of(model):
    return model.get_encoder() if model.config.is_encoder_decoder else model


def states(model, inputs):
    """Of all rows, those of padding too."""
    with torch.no_grad():
        return encoder_of(model)(**inputs).last_hidden_state


def attention_layers(model):
    return [m for m in model.modules() if hasattr(m, "one_sided_attn_window_size")]


def close(ours, expected, tolerance=1e-5):
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("tokens", GLOBAL)
@pytest.mark.parametrize("seqlen", LENGTHS)
@of_each_kind
def test_states(kind, seqlen, tokens):
    model, inputs = make(kind, torch.float64), inputs_of(seqlen, tokens)
    with InFp64():
        expected = states(model, inputs)
        report = lckernels.patch(model)
        close(states(model, inputs), expected, 1e-12)
        own = [row for row in report.rows if "decoder" not in row.layer]
        assert [(row.kind, row.window, row.verdict) for row in own] == [
            ("bidirectional window, global tokens", (w // 2, w // 2), "exact") for w in WINDOWS
        ]
        lckernels.unpatch(model)
        assert torch.equal(states(model, inputs), expected)


N = 24  # tokens with the model's padding, a multiple of the window


def visible(kind, seqlen, hidden, tokens, patched):
    """(seqlen, seqlen): which values reach each token in one layer, read off one-hot values."""
    sizes = {"longformer": {"hidden_size": N, "num_hidden_layers": 1, "num_attention_heads": 1},
             "led": {"d_model": N, "encoder_layers": 1, "encoder_attention_heads": 1}}[kind]  # fmt: skip
    model = make(kind, torch.float64, attention_window=2 * SIDE, **sizes)
    (layer,) = attention_layers(model)
    for linear in (layer.value, layer.value_global):
        torch.nn.init.eye_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    layer.register_forward_pre_hook(
        lambda _, args, kwargs: (
            (torch.eye(N, dtype=torch.float64)[None], *args[1:]),
            {name: x for name, x in kwargs.items() if name != "hidden_states"},
        ),
        with_kwargs=True,
    )
    seen = []
    layer.register_forward_hook(lambda _, args, out: seen.append(out[0][0]))
    if patched:
        lckernels.patch(model)
    ids = torch.full((1, seqlen), 5)
    mask, of_global = torch.ones_like(ids), torch.zeros_like(ids)
    mask[0, hidden], of_global[0, tokens] = 0, 1
    calls = count_kernel_calls(
        lambda: states(model, {"input_ids": ids, "attention_mask": mask, "global_attention_mask": of_global})
    )
    assert calls == patched
    (out,) = seen
    assert out.shape == (N, N)
    sums = out.sum(1)
    close(sums, (sums > 0.5).double())  # probabilities, or a row of zeros
    return out > 0


@pytest.mark.parametrize("patched", [False, True], ids=["stock", "patched"])
@of_each_kind
def test_the_first_and_the_last_tokens(kind, patched):
    """The window ends at the row's ends; the padding to a multiple of the window is not seen."""
    for seqlen in (24, 23, 17):
        found = [row.nonzero().flatten().tolist() for row in visible(kind, seqlen, [], [], patched)]
        assert found[0] == [0, 1, 2, 3, 4]
        assert found[1] == [0, 1, 2, 3, 4, 5]
        assert found[10] == list(range(6, 15))
        assert found[seqlen - 1] == list(range(seqlen - 5, seqlen))
        assert found[seqlen - 2] == list(range(seqlen - 6, seqlen))
        assert found[seqlen:] == [[]] * (N - seqlen)


@pytest.mark.parametrize("patched", [False, True], ids=["stock", "patched"])
@pytest.mark.parametrize(
    ("hidden", "tokens"),
    [
        ([], [0]),
        ([], [23]),
        ([], [0, 1, 2, 3, 4, 5, 6, 7]),
        ([], [3, 11, 12]),
        ([0, 1, 2], [3]),
        ([0, 1, 2], [3, 4]),
        ([20, 21, 22, 23], [0, 9]),
        ([2, 3, 11], [0, 1]),
        ([1, 11, 12], [0, 2]),
        ([5, 6], [6, 10]),
        ([], list(range(24))),
    ],
    ids=str,
)
@of_each_kind
def test_which_keys_are_visible(kind, hidden, tokens, patched):
    """A token sees the valid ones of its window and the global tokens; these see all valid ones."""
    valid = torch.ones(N, dtype=torch.bool)
    valid[hidden] = False
    is_global = torch.zeros(N, dtype=torch.bool)
    is_global[tokens] = True
    is_global &= valid
    distance = (torch.arange(N) - torch.arange(N)[:, None]).abs()
    expected = ((distance <= SIDE) | is_global | is_global[:, None]) & valid & valid[:, None]
    assert torch.equal(visible(kind, N, hidden, tokens, patched), expected)


@pytest.mark.parametrize("tokens", ["none", "first", "others", "many"])
@pytest.mark.parametrize("checkpoints", [None, False, True], ids=["", "checkpoints", "reentrant"])
@of_each_kind
def test_gradients(kind, checkpoints, tokens):
    """In training mode, without dropout; the same parameters have a gradient.

    The model's own recomputation would be outside of InFp64.
    """

    def gradients(patched, checkpoints=None):
        model = make(kind, torch.float64).train()
        if patched:
            lckernels.patch(model)
        if checkpoints is not None:
            model.gradient_checkpointing_enable({"use_reentrant": checkpoints})
        inputs = inputs_of(23, tokens)
        if kind == "led":
            inputs["decoder_input_ids"] = inputs["input_ids"][:, :9]
        out = model(**inputs).last_hidden_state
        (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).double()).sum().backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    with InFp64():
        expected, ours = gradients(False), gradients(True, checkpoints)
    assert ours.keys() == expected.keys()
    assert any("key_global" in name for name in ours) == (tokens != "none")
    for key, want in expected.items():
        torch.testing.assert_close(ours[key], want, rtol=1e-8, atol=1e-10, msg=key)


@pytest.mark.parametrize("tokens", ["first", "others"])
@of_each_kind
def test_dropout(kind, tokens):
    """Its probability is the layer's: with it the states differ, and their mean is that without it."""
    model, inputs = make(kind, torch.float64), inputs_of(23, tokens)
    layer = attention_layers(model)[0]
    lckernels.patch(model)
    seen = []
    layer.register_forward_hook(lambda _, args, out: seen.append(out[0].detach()))
    expected = states(model, inputs)
    layer.train()
    layer.dropout = 0.3
    for _ in range(150):
        states(model, inputs)
    exact, drawn = seen[0], torch.stack(seen[1:])
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3
    error = (drawn.mean(0) - exact).abs() / (drawn.std(0) / 150**0.5 + 1e-9)
    assert error.mean() < 1.5
    layer.eval()
    close(states(model, inputs), expected, 1e-12)


@pytest.mark.parametrize(
    "head",
    ["SequenceClassification", "QuestionAnswering", "MultipleChoice", "TokenClassification", "MaskedLM"],
)
def test_heads_with_global_tokens_of_their_own(head):
    """Question answering makes the tokens before the first separator global, a classifier the first token."""
    model = make(cls=f"LongformerFor{head}")
    ids = inputs_of(23)["input_ids"]
    ids[:, [7, 14, 22]] = SEP
    if head == "QuestionAnswering":
        ids[1, [7, 5]] = ids[1, [5, 7]]
    inputs = {"input_ids": torch.stack([ids, ids.flip(1)], 1) if head == "MultipleChoice" else ids}
    with torch.no_grad():
        expected = model(**inputs).to_tuple()
        report = lckernels.patch(model)
        assert [row.verdict for row in report.rows] == ["exact"] * 2
        found = []
        calls = count_kernel_calls(lambda: found.append(model(**inputs).to_tuple()))
    assert calls == 2
    for one, other in zip(found[0], expected, strict=True):
        close(one, other)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_generate(options):
    model = make("led", cls="LEDForConditionalGeneration")
    inputs = inputs_of(23, "others")
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, **options}
    settings |= {"return_dict_in_generate": True, "output_logits": True}
    expected = model.generate(**inputs, **settings)
    report = lckernels.patch(model)
    assert len(report.taken) == len(report.rows) == 6
    ours = model.generate(**inputs, **settings)
    assert torch.equal(ours.sequences, expected.sequences)
    close(torch.stack(ours.logits), torch.stack(expected.logits))


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
    monkeypatch.setattr(family, "_PIECE_TOKENS", 3 * 20)
    seen = []
    own = type(model.encoder.layer[0]).ff_chunk
    monkeypatch.setattr(
        type(model.encoder.layer[0]), "ff_chunk", lambda self, x: seen.append(x.shape[1]) or own(self, x)
    )
    if hooked:
        model.encoder.layer[0].intermediate.dense.register_forward_hook(lambda *_: None)
    lckernels.patch(model)
    seen.clear()  # of the dry run
    close(states(model, inputs), expected)
    assert seen == ([48] if hooked else [20, 20, 8]) + [20, 20, 8]
    seen.clear()
    assert model(**inputs).last_hidden_state.requires_grad
    assert seen == [48, 48]


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
