"""What a KV cache with a window does not support: caches, masks, rollbacks. One error; nothing is lost."""

import copy

import pytest
import torch
import transformers
from helpers.hf_cache import by_steps, generate, logits_of, tokens, windowed
from helpers.hf_models import build
from transformers import DynamicCache, StaticCache

import lckernels

W, S = 6, 2


def test_crop_is_exact_or_raises():
    model, ids = build("llama"), tokens(1)
    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        expected = windowed(model, ids)
        _, cache = by_steps(model, ids[:, :30], [25, 5])
        cache.crop(-4)
        assert cache.get_seq_length() == 26
        got, _ = by_steps(model, ids, [4, 18], cache=cache)
        torch.testing.assert_close(got, expected[:, 26:], rtol=1e-5, atol=1e-5)
        before = copy.deepcopy(cache)
        with pytest.raises(
            ValueError, match=r"tokens_to_remove: got -19; expected -18 to 0: the KV cache keeps"
        ):
            cache.crop(-19)
        with pytest.raises(ValueError, match="tokens_to_remove: got 3; expected minus the number"):
            cache.crop(3)
        assert cache.get_seq_length() == 48
        assert torch.equal(cache.layers[1].keys, before.layers[1].keys)


def test_an_interrupted_forward_is_an_error_at_the_next_call():
    model, ids = build("llama"), tokens(1)

    def interrupt(*args):
        raise KeyboardInterrupt

    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        _, cache = by_steps(model, ids[:, :20], [20])
        hook = model.model.layers[1].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            by_steps(model, ids[:, :21], [1], cache=cache)
        hook.remove()
        with pytest.raises(
            ValueError, match=r"cache: got .* hold 20 and 21 tokens; a forward was interrupted"
        ):
            by_steps(model, ids[:, :21], [1], cache=cache)
        cache.reset()
        got, _ = by_steps(model, ids, [20, *[1] * 28], cache=cache)
        torch.testing.assert_close(got, windowed(model, ids), rtol=1e-5, atol=1e-5)


class Other(transformers.cache_utils.DynamicLayer):
    """A layer of a cache of another kind."""


def _other_cache(model):
    return transformers.Cache(layers=[Other(), Other()])


def _short_static(model):
    return StaticCache(config=model.config, max_cache_len=20)


def _offloaded(model):
    cache = DynamicCache(config=model.config)
    cache.offloading = True
    return cache


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_other_cache, r"cache: got Cache with Other in layer 0; it keeps no window of 6 keys"),
        (
            _short_static,
            r"cache: got a static cache of 20 tokens for 21; expected a StaticCache with a larger",
        ),
        (_offloaded, r"cache: got DynamicCache with offloading; it keeps no window"),
    ],
)
def test_caches_that_cannot_roll(make, message):
    model, ids = build("llama"), tokens(1)
    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        cache = make(model)
        with pytest.raises(ValueError, match=message):
            by_steps(model, ids[:, :21], [21], cache=cache)
        assert cache.get_seq_length() == 0


@pytest.mark.skipif(
    not hasattr(transformers.cache_utils, "Fp8QuantizedLayer"), reason="this transformers has no fp8 cache"
)
def test_generate_with_a_cache_that_cannot_roll():
    model = build("llama")
    with (
        lckernels.patched(model, window=W, sink_tokens=S),
        pytest.raises(ValueError, match=r"cache: got QuantizedCache with .* in layer 0; it keeps no window"),
    ):
        options = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}
        generate(model, {"input_ids": tokens(1, 14)}, **options)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 3), r"attention_mask: got a mask of 3 tokens; expected 23: those of the cache"),
        (
            torch.ones(1, 1, 3, 23, dtype=torch.bool),
            r"attention_mask: got a mask of 4 dimensions; .* requires a 2-D",
        ),
    ],
)
def test_masks_that_do_not_fit_the_cache(mask, message):
    model, ids = build("llama"), tokens(1)
    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        _, cache = by_steps(model, ids[:, :20], [20])
        with pytest.raises(ValueError, match=message):
            logits_of(model, ids[:, 20:23], cache, attention_mask=mask)
        assert cache.get_seq_length() == 20


def test_a_cache_of_another_window_or_model_raises():
    model, ids = build("llama"), tokens(1)
    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        _, cache = by_steps(model, ids[:, :20], [20])
    with torch.no_grad():
        with pytest.raises(
            ValueError, match=r"cache: got a KV cache that keeps a window of 6 keys; expected a model under"
        ):
            logits_of(model, ids[:, 20:21], cache)
        with (
            lckernels.patched(model),
            pytest.raises(ValueError, match=r"expected a model under lckernels.patch"),
        ):
            logits_of(model, ids[:, 20:21], cache)
        with (
            lckernels.patched(model, window=9, sink_tokens=1),
            pytest.raises(
                ValueError,
                match=r"the patch requires a window of 9 keys, 1 sink tokens, .*; expected a new cache",
            ),
        ):
            logits_of(model, ids[:, 20:21], cache)
        with (
            lckernels.patched(model, window=W, sink_tokens=S, positions="cache"),
            pytest.raises(ValueError, match=r"positions 'absolute'; the patch requires .* positions 'cache'"),
        ):
            logits_of(model, ids[:, 20:21], cache)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "bert",
            {"window": 256},
            r"window: got 256 for a model with 128 positions; no row has so many tokens",
        ),
        ("gpt2", {"window": 129}, r"window: got 129 for a model with 128 positions; no row"),
        (
            "bert",
            {"window": 6, "sink_tokens": 1},
            r"sink_tokens: got 1 for a model with bidirectional layers alone",
        ),
        ("llama", {"window": 0}, r"window: got 0; expected an int >= 1"),
    ],
)
def test_windows_and_sinks_that_do_not_fit_the_model(name, options, message):
    model = build(name)
    before = [{key: id(x) for key, x in module.__dict__.items()} for module in model.modules()]
    with pytest.raises(ValueError, match=message):
        lckernels.patch(model, **options)
    assert [{key: id(x) for key, x in module.__dict__.items()} for module in model.modules()] == before


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_rows_without_a_table_of_positions_have_no_longest_one(name):
    """A window may be wider than max_position_embeddings."""
    model = build(name)
    lckernels.patch(model, window=4096)
    ids = torch.randint(3, 50, (1, 150), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert model(ids).logits.isfinite().all()


def test_attention_weights_under_a_window():
    model, ids = build("llama"), tokens(1)
    message = r"output_attentions: got True under a window of lckernels\.patch"
    with (
        lckernels.patched(model, window=W, sink_tokens=S),
        torch.no_grad(),
        pytest.raises(ValueError, match=message),
    ):
        model(ids, output_attentions=True)
    with lckernels.patched(model), torch.no_grad():
        assert model(ids, output_attentions=True).attentions[0].shape == (1, 4, 48, 48)


def test_another_number_of_rows_than_in_the_cache():
    model, ids = build("llama"), tokens(3)
    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        _, cache = by_steps(model, ids[:1, :20], [20])
        before = cache.layers[0].keys.clone()
        with pytest.raises(ValueError, match="cache: got keys of 1 rows for 3; expected as many rows"):
            logits_of(model, ids[:, 20:21], cache)
        assert torch.equal(cache.layers[0].keys, before)


@pytest.mark.parametrize("options", [{}, {"window": W, "sink_tokens": S}])
def test_a_call_without_input_raises_the_models_own_error(options):
    model = build("gemma3_text")
    with pytest.raises(ValueError) as expected:
        model()
    with lckernels.patched(model, **options):
        with pytest.raises(ValueError) as got:
            model()
        with pytest.raises(TypeError):
            model.model(tokens(1), input_ids=tokens(1))
    assert str(got.value) == str(expected.value)


def test_patches_do_not_accumulate():
    """No cache of the process keeps the classes that a patch makes, and with them its model."""
    from lckernels.hf.family import families_of

    model, ids, sizes = build("llama"), tokens(1), []
    for _ in range(3):
        with lckernels.patched(model, window=W, sink_tokens=S, positions="cache"), torch.no_grad():
            model(ids)
        sizes.append(families_of.cache_info().currsize)
    assert sizes[0] == sizes[1] == sizes[2]


def test_masks_keep_what_was_evicted():
    from lckernels.hf.masks.create import create_mask
    from lckernels.hf.masks.kept import KeptOffset

    mask = create_mask(1, 2, 9, 20, KeptOffset(13, 3))
    assert [x.evicted for x in (mask, mask.to("meta"), mask[:, :, -1:])] == [13, 13, 13]
