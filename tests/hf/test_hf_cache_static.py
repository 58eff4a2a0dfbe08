"""Static caches of layers with a window of their own: what transformers takes without a message raises."""

import pytest
import torch
import transformers
from helpers.hf_cache import by_steps, generate, tokens
from helpers.hf_models import WINDOW, build
from transformers import StaticCache

import lckernels


@pytest.mark.parametrize("options", [{}, {"window": 9, "sink_tokens": 1}])
@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "llama4_text"])
def test_a_static_cache_shorter_than_a_window(name, options):
    if name == "mistral" and options:
        pytest.skip("it has no full attention that a window could narrow")
    model, ids = build(name), tokens(1)
    with lckernels.patched(model, **options), torch.no_grad():
        cache = StaticCache(config=model.config, max_cache_len=WINDOW - 2)
        expected, _ = by_steps(model, ids[:, :4], [4])
        got, _ = by_steps(model, ids[:, :4], [2, 2], cache=cache)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        with pytest.raises(
            ValueError, match=rf"cache: got a static cache of {WINDOW - 2} tokens for {WINDOW - 1};"
        ):
            by_steps(model, ids[:, :5], [1], cache=cache)


@pytest.mark.skipif(
    not hasattr(transformers.StaticSlidingWindowLayer, "crop"),
    reason="this transformers cannot crop it",
)
def test_a_static_cache_that_was_cropped_past_its_window():
    model, ids = build("mistral"), tokens(1)
    with lckernels.patched(model), torch.no_grad():
        cache = StaticCache(config=model.config, max_cache_len=60)
        expected, _ = by_steps(model, ids, [48])
        by_steps(model, ids[:, :5], [5], cache=cache)
        cache.crop(-2)  # within the window: exact
        got, _ = by_steps(model, ids[:, :20], [1] * 17, cache=cache)
        torch.testing.assert_close(got, expected[:, 3:20], rtol=1e-5, atol=1e-5)
        cache.crop(-1)
        with pytest.raises(
            ValueError, match="cache: got a static cache that was cropped from 20 to 19 tokens; it keeps"
        ):
            by_steps(model, ids[:, :20], [1], cache=cache)
        cache.reset()
        got, _ = by_steps(model, ids, [20, *[1] * 28], cache=cache)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "ministral"])
def test_generate_makes_static_caches_that_are_long_enough(name):
    model = build(name)
    inputs = {"input_ids": tokens(2, 4)}
    expected, _, _ = generate(model, inputs)
    with lckernels.patched(model):
        for length in (1, 20):
            got, _, _ = generate(
                model, inputs, cache_implementation="static", max_new_tokens=length, min_new_tokens=1
            )
            assert torch.equal(got, expected[:, : 4 + length])
