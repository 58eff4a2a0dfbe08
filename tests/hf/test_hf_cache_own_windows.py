"""KV caches where layers with a window of their own share the mask of those that a patch narrows."""

import pytest
import torch
import transformers
from helpers.hf_cache import by_steps, generate, logits_of, rolling_layers, tokens, windowed
from helpers.hf_models import MODELS, WINDOW, build, has, make_config
from transformers import DynamicCache

import lckernels

S, N = 2, 48
STEPS = {
    "single": [1] * N,
    "turns": [9, 1, 1, 1, 12, 1, 1, 1, 20, 1],
    "long": [20, 20, 7, 1],
}
SIZES = [3, WINDOW, 11]  # windows of the patch: below the model's own, equal to it, above it
# A DynamicCache without the model's config has no windows; layers of windows and of chunks.
WITHOUT_CONFIG = ["gemma3_text", "llama4_text", "gpt_oss", "modernbert-decoder", "gemma3n_text"]
MODES = {
    "greedy": {},
    "static": {"cache_implementation": "static"},
    "beams": {"num_beams": 3},
    "samples": {"do_sample": True, "num_return_sequences": 3},
    "prefill": {"prefill_chunk_size": 5},
    "lookup": {"prompt_lookup_num_tokens": 3},
}


def padded_mask(ids, padded):
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :11], mask[1, :2] = 0, 0
    return mask


def check_steps(model, ids, mask, steps, window, sinks, cache):
    with lckernels.patched(model, window=window, sink_tokens=sinks), torch.no_grad():
        expected = windowed(model, ids, mask)
        got, cache = by_steps(model, ids, steps, mask, cache)
    assert (got - expected)[mask.bool()].abs().max() < 1e-5 * expected.abs().max()
    assert len(rolling_layers(cache)) == len(cache.layers) == 2
    # The last call has one token, which is kept beside them.
    assert {layer.keys.shape[2] for layer in cache.layers} == {sinks + max(window, WINDOW)}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("sinks", [0, S])
@pytest.mark.parametrize("window", SIZES)
def test_one_mask_of_all_layers(window, sinks, padded, steps):
    model, ids = build("gpt_neo"), tokens()
    check_steps(model, ids, padded_mask(ids, padded), steps, window, sinks, None)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("window", SIZES)
@pytest.mark.parametrize("name", WITHOUT_CONFIG)
def test_a_cache_without_the_models_config(name, window, padded):
    if not has(name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    model, ids = build(name), tokens()
    check_steps(model, ids, padded_mask(ids, padded), STEPS["turns"], window, S, DynamicCache())


@pytest.mark.parametrize("sinks", [0, S])
@pytest.mark.parametrize("window", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_generate_is_that_without_a_cache(mode, window, sinks):
    options, model = MODES[mode], build("gpt_neo")
    rows = 1 if mode == "lookup" else 2
    ids = tokens(rows, 14)
    mask = torch.ones_like(ids)
    mask[0, : 5 if rows == 2 else 0] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    plain = {k: x for k, x in options.items() if k in ("num_beams", "num_return_sequences", "do_sample")}
    with lckernels.patched(model, window=window, sink_tokens=sinks):
        expected, expected_logits, _ = generate(model, inputs, use_cache=False, **plain)
        got, got_logits, cache = generate(model, inputs, **options)
    assert torch.equal(got, expected)
    assert (got_logits - expected_logits).abs().max() < 1e-5 * expected_logits.abs().max()
    assert len(rolling_layers(cache)) == len(cache.layers)
    most = sinks + max(window, WINDOW) + 3 * (mode == "lookup")
    assert all(layer.keys.shape[2] <= most for layer in cache.layers)


@pytest.mark.parametrize("name", ["gpt_neo", "gemma3_text"])
def test_keys_of_a_model_before_its_patch(name):
    """A cache that an unpatched model has filled rolls from the patch on, also one without the config."""
    model, ids, window = build(name), tokens(1), 4
    cache = DynamicCache()
    with torch.no_grad():
        logits_of(model, ids[:, :20], cache)
        keys = [layer.keys.clone() for layer in cache.layers]
        with lckernels.patched(model, window=window, sink_tokens=S):
            logits_of(model, ids[:, 20:21], cache)
    for layer, before in zip(cache.layers, keys, strict=True):
        last = before[:, :, 2 - max(window, WINDOW) :]
        assert torch.equal(layer.keys[:, :, :-1], torch.cat([before[:, :, :S], last], dim=2))


def test_crop_and_a_cache_of_another_patch():
    model, ids, mask = build("gpt_neo"), tokens(1), torch.ones(1, N, dtype=torch.long)
    with lckernels.patched(model, window=4, sink_tokens=S), torch.no_grad():
        expected = windowed(model, ids, mask)
        _, cache = by_steps(model, ids[:, :20], [20], mask[:, :20])
        cache.activate_past_recording()
        by_steps(model, ids[:, :30], [10], mask[:, :30], cache)
        cache.crop(-6)
        assert cache.layers[1].keys.shape[2] == S + WINDOW - 1
        got, _ = by_steps(model, ids, [24], mask, cache)
    torch.testing.assert_close(got, expected[:, 24:], rtol=1e-5, atol=1e-5)
    with (
        lckernels.patched(model, window=WINDOW + 1, sink_tokens=S),
        pytest.raises(ValueError, match=f"a window of {WINDOW} keys, 2 sink tokens"),
    ):
        logits_of(model, ids[:, :1], cache)


def test_layers_that_share_keys():
    known = MODELS["gemma3n_text"]
    layers = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
    config = make_config(known.config, **{**known.sizes, **layers, "num_kv_shared_layers": 2})
    torch.manual_seed(0)
    model, ids = getattr(transformers, known.make)(config).eval(), tokens()
    with lckernels.patched(model, window=4, sink_tokens=S), torch.no_grad():
        expected = windowed(model, ids)
        got, cache = by_steps(model, ids, STEPS["turns"], cache=DynamicCache())
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    assert rolling_layers(cache)


@pytest.mark.parametrize("window", SIZES)
def test_positions_of_the_cache(window):
    model, ids = build("gemma3_text"), tokens()
    options = {"window": window, "sink_tokens": S, "positions": "cache"}
    with lckernels.patched(model, **options), torch.no_grad():
        expected = windowed(model, ids)
        got, cache = by_steps(model, ids, STEPS["turns"], cache=DynamicCache())
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    assert len(rolling_layers(cache)) == 2
