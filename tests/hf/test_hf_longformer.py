"""Longformer and LED under lckernels.patch: states, visible keys, gradients, heads, generate."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_checks import InFp64
from helpers.hf_parity import count_kernel_calls
from helpers.longformer import (
    GLOBAL,
    KINDS,
    LENGTHS,
    SEP,
    SIDE,
    WINDOWS,
    attention_layers,
    close,
    inputs_of,
    make,
    states,
)  # fmt: skip

import lckernels

pytestmark = pytest.mark.usefixtures("one_thread")
of_each_kind = pytest.mark.parametrize("kind", KINDS)


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
