"""PEFT's prompt learning under a window: which virtual tokens stay visible, and the notes of the report."""

# ruff: noqa: E402

import warnings

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")
peft = pytest.importorskip("peft")

from helpers.hf_patched import with_cache
from helpers.peft_models import (
    ENCODERS,
    PROMPTS,
    VIRTUAL,
    decoder,
    encoder,
    extra,
    masked,
    prompted,
)

import lckernels

IDS = torch.randint(5, 64, (3, 14), generator=torch.Generator().manual_seed(3))
PADDING = {
    "left": torch.tensor([[0] * n + [1] * (14 - n) for n in (0, 3, 8)]),
    "right": torch.tensor([[1] * (14 - n) + [0] * n for n in (0, 3, 8)]),
}
SINKS = (0, 2, VIRTUAL, VIRTUAL + 3)
PREFIX = ("prefix tuning", "prefix projection", "cartridge")


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def states(model, method, mask, ids=IDS):
    """The states or logits of the valid tokens."""
    given = {} if mask is None else {"attention_mask": mask}
    out = model(input_ids=ids, **given, **extra(method, len(ids)))[0][:, -ids.shape[1] :]
    return out.flatten(0, 1) if mask is None else out[mask.bool()]


def outcome(model, method, mask):
    """States of the valid tokens, and the gradients of the virtual tokens."""
    model.zero_grad()
    out = states(model, method, mask)
    out.square().sum().backward()
    gradients = [p.grad.clone() for p in model.prompt_encoder.parameters() if p.grad is not None]
    assert gradients and any(g.abs().max() > 0 for g in gradients)
    return [out.detach(), *gradients]


def assert_same(got, expected):
    for ours, theirs in zip(got, expected, strict=True):
        scale = max(theirs.abs().max().item(), 1.0)
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5 * scale)


def check_windows(model, method, mask, window):
    for sinks in SINKS:
        with masked(model, window, sinks):
            expected = outcome(model, method, mask)
        with lckernels.patched(model, window=window, sink_tokens=sinks):
            assert_same(outcome(model, method, mask), expected)


@pytest.mark.parametrize("padding", PADDING)  # one row has none
@pytest.mark.parametrize("method", PROMPTS)
def test_causal_models(method, padding):
    check_windows(prompted(decoder(), method), method, PADDING[padding], 5)


@pytest.mark.parametrize("padding", [None, *PADDING])
@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning"])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name, method, padding):
    check_windows(prompted(encoder(name), method), method, PADDING.get(padding), 6)


def seen_by_the_last_token(model, method, mask):
    """Which virtual tokens have a gradient from the last token's state in one layer."""
    model.zero_grad()
    states(model, method, mask, IDS[:1])[-1].square().sum().backward()
    weight = model.prompt_encoder["default"].embedding.weight
    return weight.grad.abs().amax(1).gt(0).tolist()


@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning"])
@pytest.mark.parametrize("build", [decoder, encoder])
def test_visible_virtual_tokens(build, method, pad):
    """In one layer; the window ends behind the virtual tokens."""
    model = prompted(build(layers=1), method)
    mask = torch.tensor([[0] * pad + [1] * (14 - pad)])
    for sinks in (0, 1, 3, VIRTUAL, VIRTUAL + 2):
        seen = min(sinks, VIRTUAL)
        with lckernels.patched(model, window=5, sink_tokens=sinks):
            assert seen_by_the_last_token(model, method, mask) == [True] * seen + [False] * (VIRTUAL - seen)
    assert seen_by_the_last_token(model, method, mask) == [True] * VIRTUAL


@pytest.mark.parametrize("window, sinks", [(3, VIRTUAL + 3), (6, 2), (6, 0)])
def test_a_row_with_padding_is_the_row_alone(window, sinks):
    """OPT's positions do not count padding either; the padding is between virtual tokens and the row."""
    model, mask = prompted(decoder("opt"), "prompt tuning"), PADDING["left"]
    with torch.no_grad(), lckernels.patched(model, window=window, sink_tokens=sinks):
        batch = model(input_ids=IDS, attention_mask=mask).logits[:, VIRTUAL:]
        for row, ids, valid in zip(batch, IDS, mask.bool(), strict=True):
            alone = model(input_ids=ids[valid][None], attention_mask=mask.new_ones(1, valid.sum())).logits
            torch.testing.assert_close(row[valid], alone[0, VIRTUAL:], rtol=1e-5, atol=1e-5)


def generated_and_expected(model, method, use_cache):
    """Greedy tokens after padded rows, and those of a forward over the whole text."""
    mask, new = PADDING["left"], 6
    options = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "use_cache": use_cache}
    with torch.no_grad():
        out = model.generate(input_ids=IDS, attention_mask=mask, **options, **extra(method, 3))
        whole, given = torch.cat([mask, mask.new_ones(3, new)], 1), extra(method, 3)
        if method in PREFIX:  # generate counts positions without padding, forward does not
            given["position_ids"] = (whole.cumsum(1) - 1).clamp(min=0)
        logits = model(input_ids=out, attention_mask=whole, **given).logits
    return out[:, -new:], logits[:, -new - 1 : -1].argmax(-1)


# Unpatched, prefix tuning without a cache fails in transformers 5.17 and has other tokens in 5.24.
@pytest.mark.parametrize(
    "method, use_cache", [(m, True) for m in PROMPTS] + [(m, False) for m in PROMPTS if m not in PREFIX]
)
def test_generate_decodes_as_forwards_do(method, use_cache):
    model = prompted(decoder(), method)
    if not torch.equal(*generated_and_expected(model, method, use_cache)):
        pytest.skip("unpatched it does not: PEFT 0.21.2 does not find the cache of transformers 5.24")
    with lckernels.patched(model, window=5, sink_tokens=VIRTUAL + 2):
        assert torch.equal(*generated_and_expected(model, method, use_cache))


@pytest.mark.parametrize("chunk", [1, 5])
@pytest.mark.parametrize("sinks", SINKS)
def test_a_loop_over_the_model_within(sinks, chunk):
    """No function of PEFT is called in the loop; its cache begins with the keys of prefix tuning."""
    model, mask = prompted(decoder(), "prefix tuning"), PADDING["left"]
    base, outputs = model.get_base_model(), []
    with torch.no_grad(), lckernels.patched(model, window=5, sink_tokens=sinks):
        expected = model(input_ids=IDS, attention_mask=mask).logits
        cache = model.get_prompt(3)
        valid = torch.cat([mask.new_ones(3, VIRTUAL), mask], 1)
        for begin in range(0, 14, chunk):
            given = with_cache(base, cache) | {"attention_mask": valid[:, : VIRTUAL + begin + chunk]}
            outputs.append(base(IDS[:, begin : begin + chunk], **given).logits)
    got = torch.cat(outputs, 1)
    # Of these rows, whose padding is behind the virtual tokens, a rolling cache would lose other sink tokens.
    assert (cache.layers[0].keys.shape[2] < VIRTUAL + 14) == (sinks == VIRTUAL)
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)


def test_a_cache_without_padding_rolls():
    model = prompted(decoder(), "prefix tuning")
    base, cache = model.get_base_model(), model.get_prompt(3)
    with torch.no_grad(), lckernels.patched(model, window=5, sink_tokens=VIRTUAL + 2):
        expected = model(input_ids=IDS).logits
        got = torch.cat([base(x, **with_cache(base, cache)).logits for x in IDS.split(1, 1)], 1)
    assert cache.layers[0].keys.shape[2] < VIRTUAL + 14
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_padding_and_positions_in_the_cache_are_not_supported():
    model = prompted(decoder(), "prompt tuning")
    with lckernels.patched(model, window=5, sink_tokens=VIRTUAL, positions="cache"):
        states(model, "prompt tuning", None)
        with pytest.raises(ValueError, match="virtual tokens, with positions='cache'; expected no mask"):
            states(model, "prompt tuning", PADDING["left"])


def test_the_report_names_both_numbers():
    model = prompted(decoder(), "prefix tuning")
    message = "4 virtual tokens of PEFT .* sink_tokens is 1: 3 of them .* pass sink_tokens=4"
    with pytest.warns(UserWarning, match=message):
        report = lckernels.patch(model, window=5, sink_tokens=1)
    assert len(report.notes) == 1 and f"note: {report.notes[0]}" in str(report).splitlines()
    lckernels.unpatch(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = lckernels.patch(model, window=5, sink_tokens=4)
    assert "4 virtual tokens" in report.notes[0] and "sink_tokens is 4: all of them" in report.notes[0]
    lckernels.unpatch(model)
    assert lckernels.patch(torch.nn.ModuleDict({"inside": model})).notes == ()  # exact: nothing is hidden


@pytest.mark.parametrize("window", [None, 6])
def test_virtual_tokens_that_the_model_does_not_read(window):
    """ModernBERT has no KV cache: `patch` warns before training, and then not about windows."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = transformers.ModernBertConfig(**sizes, num_attention_heads=4, pad_token_id=0)
    model = prompted(transformers.ModernBertModel(config).eval(), "prefix tuning")
    with pytest.warns(UserWarning, match="whose 4 virtual tokens it does not read") as warned:
        report = lckernels.patch(model, window=window)
    assert len(warned) == 1 and len(report.notes) == 1 and "does not read" in report.notes[0]


def test_windows_of_the_model_have_a_note():
    """Mistral's own window hides virtual tokens too; sink_tokens does not change it."""
    config = transformers.MistralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=5,
    )  # fmt: skip
    model = prompted(transformers.MistralForCausalLM(config).eval(), "prompt tuning")
    report = lckernels.patch(model)
    assert report.exact and "2 layers have a window of their own" in report.notes[0]


@pytest.mark.parametrize("build, window", [(decoder, 5), (encoder, 6)])
@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning"])
def test_prompt_learning_after_the_patch(build, window, method):
    """The report cannot have the virtual tokens; the first call warns, and has the same result."""
    base, sinks = build(), int(build is decoder)  # an encoder without virtual tokens takes no sink tokens
    report = lckernels.patch(base, window=window, sink_tokens=sinks)
    assert report.notes == ()
    # A number of its own for each case, since a message is a warning once in a process.
    virtual = 3 + (method in PREFIX) + (build is encoder) * 3
    model = prompted(base, method, virtual)
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = states(model, method, PADDING["left"])
    assert any(f"{virtual} virtual tokens of PEFT" in str(w.message) for w in caught)
    lckernels.unpatch(base)
    with torch.no_grad(), masked(model, window, sinks, virtual):
        torch.testing.assert_close(got, states(model, method, PADDING["left"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("build, window", [(decoder, 5), (encoder, 6)])
def test_gradient_checkpointing(build, window, reentrant):
    """Of prompt tuning; with prefix tuning transformers drops the cache, and so the prefix."""
    model, mask = prompted(build(), "prompt tuning").train(), PADDING["left"]
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with lckernels.patched(model, window=window, sink_tokens=2):
        expected = outcome(model, "prompt tuning", mask)
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": reentrant})
        assert_same(outcome(model, "prompt tuning", mask), expected)


def test_torch_compile():
    """Functions that call the layer are not known there; the report's number of virtual tokens is."""
    model, mask = prompted(decoder(layers=1), "prompt tuning"), PADDING["left"]
    torch._dynamo.reset()
    with torch.no_grad(), lckernels.patched(model, window=5, sink_tokens=VIRTUAL + 2):
        expected = states(model, "prompt tuning", mask)
        compiled = torch.compile(model, backend="eager")
        torch.testing.assert_close(states(compiled, "prompt tuning", mask), expected, rtol=1e-5, atol=1e-5)
