"""patch(positions="cache"): positions counted in the KV cache, as StreamingLLM does."""

import inspect

import pytest
import torch
from helpers.hf_models import build
from helpers.streaming import streaming_model

import lckernels
from lckernels.hf.patch.modules import is_patched

W, S, N = 7, 3, 45
ROTARY = ("llama", "qwen2", "qwen3", "smollm3", "gemma2", "gemma3_text", "olmo3", "gpt_neox", "phi")


def tokens(rows: int = 2) -> torch.Tensor:
    return torch.randint(3, 50, (rows, N), generator=torch.Generator().manual_seed(3))


def by_steps(model, ids, sizes, mask=None):
    """Logits of a loop with a cache, in calls of these sizes."""
    name = next(x for x in ("cache", "past_key_values") if x in inspect.signature(model.forward).parameters)
    cache, out, at = None, [], 0
    for size in sizes:
        more = {}
        if mask is not None:
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            more = {"attention_mask": mask[:, : at + size], "position_ids": positions[:, at : at + size]}
        result = model(ids[:, at : at + size], use_cache=True, **{name: cache}, **more)
        cache, at = result[name], at + size
        out.append(result.logits)
    return torch.cat(out, dim=1)


def relative(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ROTARY)
def test_equal_to_streaming_llm(name, padded):
    model, ids = build(name), tokens()
    mask = torch.ones_like(ids)
    mask[0, : 9 if padded else 0] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        reference = streaming_model(model, W, S)
        expected = reference(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        lckernels.patch(model, window=W, sink_tokens=S, positions="cache")
        for sizes in ([1] * N, [N], [20, 20, 5], [3, 30] + [1] * 12):
            got = by_steps(model, ids, sizes, mask)
            assert relative(got * mask[..., None], expected * mask[..., None]) < 1e-5, sizes


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "opt", "gpt_neo"])
def test_learned_positions_stop_at_the_last_place(name, padded):
    """A token's position is its place in the cache; keys stay those of their tokens."""
    model, ids = build(name), tokens()
    mask = torch.ones_like(ids)
    mask[0, : 9 if padded else 0] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    i, j = torch.arange(N)[:, None], torch.arange(N)
    first = mask.argmax(1)[:, None, None]
    seen = (j <= i) & (j >= first) & ((j > i - W) | (j < first + S))
    model.config._attn_implementation = "eager"
    dense = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
    with torch.no_grad():
        expected = model(ids, attention_mask=dense, position_ids=positions.clamp(max=S + W - 1)).logits
        lckernels.patch(model, window=W, sink_tokens=S, positions="cache")
        for sizes in ([1] * N, [N], [20, 20, 5]):
            got = by_steps(model, ids, sizes, mask)
            assert relative(got * mask[..., None], expected * mask[..., None]) < 1e-5, sizes


@pytest.mark.parametrize("name", ["gpt2", "opt", "gpt_neo"])
def test_the_table_of_learned_positions_ends(name):
    model = build(name)
    ids = torch.randint(3, 50, (1, 128), generator=torch.Generator().manual_seed(0))
    options = {"do_sample": False, "max_new_tokens": 20, "min_new_tokens": 20, "pad_token_id": 0}
    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        with pytest.raises(ValueError, match=r"input_ids: got a token at position 128; the model has 128"):
            model.generate(ids, **options)
        model(ids)  # the last position of the table
    with lckernels.patched(model, window=W, sink_tokens=S, positions="cache"):
        assert model.generate(ids, **options).shape == (1, 148)


def test_without_sink_tokens_rotary_positions_are_those_of_the_sequence():
    model, ids = build("llama"), tokens()
    with torch.no_grad():
        with lckernels.patched(model, window=W):
            expected = by_steps(model, ids, [20, *[1] * 25])
        with lckernels.patched(model, window=W, positions="cache"):
            assert torch.equal(by_steps(model, ids, [20, *[1] * 25]), expected)


def test_bfloat16_error_is_that_of_bfloat16():
    model, ids = build("llama"), tokens()
    with torch.no_grad(), lckernels.patched(model, window=W, sink_tokens=S, positions="cache"):
        expected = by_steps(model, ids, [1] * N)
    half = build("llama").bfloat16()
    with torch.no_grad():
        reference = streaming_model(half, W, S)
        stock = relative(
            reference(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits, expected
        )
        with lckernels.patched(half, window=W, sink_tokens=S, positions="cache"):
            assert relative(by_steps(half, ids, [1] * N), expected) <= 2 * stock


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("llama", {}, "positions: got 'cache'; it requires a window"),
        ("bert", {"window": 4}, "positions: got 'cache' for a model without causal layers"),
        (
            "llama",
            {"window": 4, "positions": "places"},
            "positions: got 'places'; allowed are 'absolute', 'cache'",
        ),
        (
            "t5",
            {"window": 4},
            "positions: got 'cache' for .* of class T5Attention; 'cache' requires rotary or learned",
        ),
    ],
)
def test_unsupported(name, options, message):
    model = build(name)
    with pytest.raises(ValueError, match=message):
        lckernels.patch(model, **{"positions": "cache", **options})
    assert not is_patched(model)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotations_that_depend_on_the_length_are_not_supported(kind):
    import transformers

    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 32}
    config = transformers.LlamaConfig(
        hidden_size=32, num_attention_heads=4, num_hidden_layers=1, intermediate_size=32, vocab_size=50,
        max_position_embeddings=64, rope_parameters=rope,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    with pytest.raises(ValueError, match=f"rope_type '{kind}'; its rotation depends on the length"):
        lckernels.patch(model, window=4, sink_tokens=1, positions="cache")


@pytest.mark.parametrize("name", ["gpt2", "opt", "gpt_neo"])
def test_learned_positions_without_a_mask_and_without_a_cache(name):
    """Equal positions are no borders of packed sequences."""
    model, ids = build(name), tokens()
    with torch.no_grad(), lckernels.patched(model, window=W, sink_tokens=S, positions="cache"):
        expected = model(ids, use_cache=False, attention_mask=torch.ones_like(ids)).logits
        assert relative(model(ids, use_cache=False).logits, expected) < 1e-6
        assert relative(by_steps(model, ids, [20, *[1] * 25]), expected) < 1e-5
