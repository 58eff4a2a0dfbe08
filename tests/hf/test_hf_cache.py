"""A KV cache under patch(window=W) keeps sink tokens and the window; each step is the windowed forward."""

import copy
import inspect
import pickle

import pytest
import torch
import transformers
from helpers.hf_cache import by_steps, cache_of, generate, logits_of, rolling_layers, tokens, windowed
from helpers.hf_models import MODELS, build, has, make_config
from transformers import DynamicCache, EncoderDecoderCache, StaticCache

import lckernels
from lckernels.hf.cache.layer import RollingLayer

W, S, N = 6, 2, 48
STEPS = {
    "single": [1] * N,
    "short": [4] * 12,
    "long": [20, 20, 8],
    "prompt": [17, *[1] * 31],
    "turns": [9, 1, 1, 1, 12, 1, 1, 1, 1, 20],
}
# Decoders with layers of full attention that a window changes.
DECODERS = [
    "ministral", "qwen2", "qwen3", "qwen2_moe", "smollm3", "exaone4", "gemma2", "gemma3_text",
    "gemma3n_text", "cohere2", "gpt_oss", "mimo_v2_flash", "llama4_text", "modernbert-decoder", "olmoe",
    "llama", "gpt2", "opt", "mistral (full)", "gemma", "gpt_neox", "phi", "bart", "t5", "longt5",
]  # fmt: skip
NO_SINKS = {"t5": "a bias by distance", "longt5": "a bias by distance"}
MODES = {
    "greedy": {},
    "static": {"cache_implementation": "static"},
    "beams": {"num_beams": 3},
    "beams, several": {"num_beams": 4, "num_return_sequences": 2},
    "samples": {"do_sample": True, "num_return_sequences": 3},
    "prefill": {"prefill_chunk_size": 5},
    "lookup": {"prompt_lookup_num_tokens": 3},
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma3_text"])
def test_each_step_is_the_windowed_forward(name, padded, steps):
    model, ids = build(name), tokens()
    mask = torch.ones_like(ids)
    mask[0, : 11 if padded else 0] = 0
    mask[1, : 2 if padded else 0] = 0
    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        expected = windowed(model, ids, mask)
        got, cache = by_steps(model, ids, steps, mask)
    error = (got - expected)[mask.bool()].abs().max()
    assert error < 1e-5 * expected.abs().max()
    assert rolling_layers(cache)
    for layer in rolling_layers(cache):
        assert layer.get_seq_length() == N
        assert layer.keys.shape[2] <= S + W - 1 + steps[-1]


@pytest.mark.parametrize(("mode", "sinks"), [*((mode, S) for mode in MODES), ("greedy", 0), ("lookup", 0)])
@pytest.mark.parametrize("name", DECODERS)
def test_generate_is_that_without_a_cache(name, mode, sinks):
    if not has(name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    options, model = MODES[mode], build(name)
    rows = 1 if mode == "lookup" else 2
    ids = tokens(rows, 14)
    mask = torch.ones_like(ids)
    if rows == 2:
        mask[0, :5] = 0
    if model.config.is_encoder_decoder and mode == "prefill":
        pytest.skip("transformers 5.24 cuts the encoder's mask to the length of the decoder's prompt")
    if model.config.is_encoder_decoder and mode == "lookup" and transformers.__version__ == "5.17.0":
        pytest.skip("transformers 5.17.0 generates no token for an encoder-decoder by prompt lookup")
    inputs = {"input_ids": ids, "attention_mask": mask}
    plain = {k: x for k, x in options.items() if k in ("num_beams", "num_return_sequences", "do_sample")}
    with lckernels.patched(model, window=W, sink_tokens=sinks):
        expected, expected_logits, _ = generate(model, inputs, use_cache=False, **plain)
        got, got_logits, cache = generate(model, inputs, **options)
    assert torch.equal(got, expected)
    assert (got_logits - expected_logits).abs().max() < 1e-5 * expected_logits.abs().max()
    layers = rolling_layers(cache)
    assert bool(layers) == (not sinks or name not in NO_SINKS)
    assert all(layer.keys.shape[2] <= sinks + W + 3 for layer in layers)


def test_assisted_decoding_rolls_back_both_caches():
    model, assistant = build("llama"), build("llama")
    with torch.no_grad():
        for parameter in assistant.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    inputs = {"input_ids": tokens(1, 14)}
    with (
        lckernels.patched(model, window=W, sink_tokens=S),
        lckernels.patched(assistant, window=W, sink_tokens=S),
    ):
        expected, logits, _ = generate(model, inputs, use_cache=False)
        got, got_logits, cache = generate(model, inputs, assistant_model=assistant)
    assert torch.equal(got, expected)
    assert (got_logits - logits).abs().max() < 1e-5 * logits.abs().max()
    assert all(layer.keys.shape[2] <= S + W for layer in rolling_layers(cache))


@pytest.mark.parametrize("kind", ["dynamic", "dynamic with config", "static"])
def test_a_conversation_with_the_users_cache(kind):
    """Turns of generate with one cache object, each equal to generate on the whole conversation."""
    model, ids = build("llama"), tokens(1, 10)
    with lckernels.patched(model, window=W, sink_tokens=S):
        caches = {
            "dynamic": lambda: DynamicCache(),
            "dynamic with config": lambda: DynamicCache(config=model.config),
            "static": lambda: StaticCache(config=model.config, max_cache_len=200),
        }
        cache = caches[kind]()
        name = next(
            x for x in ("cache", "past_key_values") if x in inspect.signature(model.forward).parameters
        )
        for turn in range(4):
            sequence, _, _ = generate(model, {"input_ids": ids}, **{name: cache})
            expected, _, _ = generate(model, {"input_ids": ids}, use_cache=False)
            assert torch.equal(sequence, expected), turn
            ids = torch.cat([sequence, tokens(1, 3 + turn)], dim=1)
        assert all(type(layer) is RollingLayer for layer in cache.layers)
        assert cache.layers[0].keys.shape[2] <= S + W


def test_prefill_stores_the_window_alone():
    """Keys of a long prompt are freed layer by layer."""
    model = build("llama")
    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        _, cache = by_steps(model, tokens(1, 100), [100])
    for layer in cache.layers:
        assert layer.keys.shape[2] == S + W - 1
        assert layer.buffers[0].shape[2] <= S + W - 1 + 64


def test_recording_keeps_every_key_of_a_call_until_crop():
    model, ids = build("llama"), tokens(1)
    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        expected = windowed(model, ids)
        _, cache = by_steps(model, ids[:, :20], [20])
        cache.activate_past_recording()
        by_steps(model, ids[:, :35], [15], cache=cache)
        by_steps(model, ids[:, :42], [7], cache=cache)
        cache.crop(-20)
        assert cache.layers[0].keys.shape[2] == S + W - 1
        got, _ = by_steps(model, ids, [26], cache=cache)
    torch.testing.assert_close(got, expected[:, 22:], rtol=1e-5, atol=1e-5)


def test_an_interrupt_between_forwards_leaves_the_cache_usable():
    model, ids = build("llama"), tokens(1)

    class Stop(transformers.StoppingCriteria):
        def __call__(self, input_ids, scores, **options):
            if input_ids.shape[1] == 20:
                raise KeyboardInterrupt
            return torch.zeros(len(input_ids), dtype=torch.bool)

    with lckernels.patched(model, window=W, sink_tokens=S):
        cache = DynamicCache()
        name = next(
            x for x in ("cache", "past_key_values") if x in inspect.signature(model.forward).parameters
        )
        stop = transformers.StoppingCriteriaList([Stop()])
        with pytest.raises(KeyboardInterrupt):
            generate(model, {"input_ids": ids[:, :14]}, stopping_criteria=stop, **{name: cache})
        length = cache.get_seq_length()
        with torch.no_grad():
            whole, _, _ = generate(model, {"input_ids": ids[:, :14]}, use_cache=False)
            expected = windowed(model, whole)
            got, _ = by_steps(model, whole, [5, *[1] * (whole.shape[1] - length - 5)], cache=cache)
    torch.testing.assert_close(got, expected[:, length:], rtol=1e-5, atol=1e-5)


def test_keys_of_a_model_before_its_patch():
    """A cache that an unpatched model has filled rolls from the patch on."""
    model, ids = build("llama"), tokens(1)
    with torch.no_grad():
        _, cache = by_steps(model, ids[:, :20], [20])
        keys = cache.layers[0].keys.clone()
        with lckernels.patched(model, window=W, sink_tokens=S):
            logits_of(model, ids[:, 20:21], cache)
    kept = cache.layers[0].keys
    assert torch.equal(kept[:, :, :-1], torch.cat([keys[:, :, :S], keys[:, :, 2 - W :]], dim=2))


def test_copies_of_a_cache_and_of_a_model_are_independent():
    model, ids = build("llama"), tokens(1)
    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        expected = windowed(model, ids)
        _, cache = by_steps(model, ids[:, :20], [20])
        for other, copied in (
            (copy.deepcopy(model), copy.deepcopy(cache)),
            (model, pickle.loads(pickle.dumps(cache))),
        ):
            got, _ = by_steps(other, ids, [1] * 28, cache=copied)
            torch.testing.assert_close(got, expected[:, 20:], rtol=1e-5, atol=1e-5)
        assert cache.get_seq_length() == 20


def test_gradients_flow_through_the_cache():
    """Training in pieces: the loss of a later piece reaches the keys of an earlier one."""
    model, ids = build("llama"), tokens(1)
    gradients = []
    with lckernels.patched(model, window=W, sink_tokens=S):
        for steps in ([N], [10, 20, 5, *[1] * 13]):
            model.zero_grad()
            out, _ = by_steps(model, ids, steps)
            out.square().sum().backward()
            gradients.append([p.grad.clone() for p in model.parameters()])
    for got, expected in zip(*gradients, strict=True):
        assert (got - expected).norm() <= 1e-5 * expected.norm()


def test_inference_mode_and_grad_mode_share_a_cache():
    model, ids = build("llama"), tokens(1)
    with lckernels.patched(model, window=W, sink_tokens=S):
        with torch.inference_mode():
            first, cache = by_steps(model, ids[:, :20], [12, *[1] * 8])
        with torch.no_grad():
            second, cache = by_steps(model, ids[:, :40], [1] * 20, cache=cache)
        third, _ = by_steps(model, ids, [1] * 8, cache=cache)
        with torch.no_grad():
            expected = windowed(model, ids)
    torch.testing.assert_close(torch.cat([first, second, third.detach()], 1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(dtype):
    model, ids = build("llama").to(dtype), tokens(1)
    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        got, cache = by_steps(model, ids, [20, *[1] * 28])
        expected = windowed(model, ids)
    tolerance = 1e-12 if dtype == torch.float64 else 0.03
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()
    assert cache.layers[0].keys.dtype == dtype


def test_encoder_decoder_cache_keeps_the_encoders_keys():
    model = build("bart")
    with lckernels.patched(model, window=W, sink_tokens=S):
        _, _, cache = generate(model, {"input_ids": tokens(1, 30)})
    assert isinstance(cache, EncoderDecoderCache)
    assert rolling_layers(cache)
    assert cache.cross_attention_cache.layers[0].keys.shape[2] == 30


def test_without_a_cache_nothing_is_stored():
    model, ids = build("llama"), tokens(1)
    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        assert cache_of(model(ids, use_cache=False)) is None
        assert rolling_layers(cache_of(model(ids)))  # the config's default is a cache


def test_unpatch_restores_the_methods():
    model = build("llama")
    before = [{name: id(x) for name, x in module.__dict__.items()} for module in model.modules()]
    with lckernels.patched(model, window=W, sink_tokens=S):
        assert "_prepare_cache_for_generation" in model.__dict__
    assert [{name: id(x) for name, x in m.__dict__.items()} for m in model.modules()] == before


def test_a_4d_mask_without_a_cache_runs_as_before():
    model, ids = build("llama"), tokens(1)
    mask = torch.ones(1, 1, N, N, dtype=torch.bool).tril()
    with torch.no_grad():
        expected = model(ids).logits
        with lckernels.patched(model, window=W, sink_tokens=S):
            result = model(ids, attention_mask=mask)
    torch.testing.assert_close(result.logits, expected, rtol=1e-4, atol=1e-5)
    assert not rolling_layers(cache_of(result))


@pytest.mark.parametrize("name", ["gemma3n_text", "gemma4_text"])
def test_layers_that_share_keys(name):
    """The layers without keys of their own read those that the rolling layer returns."""
    known = MODELS[name]
    layers = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
    config = make_config(known.config, **{**known.sizes, **layers, "num_kv_shared_layers": 2})
    torch.manual_seed(0)
    model, ids = getattr(transformers, known.make)(config).eval(), tokens()
    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        expected = windowed(model, ids)
        got, cache = by_steps(model, ids, STEPS["turns"])
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    assert rolling_layers(cache)


@pytest.mark.parametrize("trained", ["q_proj", "k_proj", "v_proj"])
def test_gradients_of_some_weights_through_several_calls(trained):
    """A step in place would change what the backward of the step before reads."""
    model, ids = build("llama"), tokens(1)
    gradients = []
    model.requires_grad_(False)
    weight = getattr(model.model.layers[0].self_attn, trained).weight.requires_grad_(True)
    with lckernels.patched(model, window=W, sink_tokens=S):
        for steps in ([N], [12, *[1] * 36]):
            weight.grad = None
            by_steps(model, ids, steps)[0].square().sum().backward()
            gradients.append(weight.grad)
    assert (gradients[0] - gradients[1]).norm() <= 1e-5 * gradients[0].norm()


@pytest.mark.parametrize("change", ["reorder_cache", "batch_select_indices"])
def test_padded_rows_that_change_places_while_recording(change):
    model, ids, rows = build("llama"), tokens(3), torch.tensor([2, 0])
    mask = torch.ones_like(ids)
    mask[0, :12], mask[1, :5] = 0, 0
    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        _, cache = by_steps(model, ids[:, :15], [15], mask[:, :15])
        cache.activate_past_recording()
        by_steps(model, ids[:, :18], [3], mask[:, :18], cache)
        getattr(cache, change)(rows)
        cache.crop(-2)
        ids, mask = ids[rows], mask[rows]
        got, _ = by_steps(model, ids, [1, 1, 4, 26], mask, cache)
        expected = windowed(model, ids, mask)[:, 16:]
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_generate_ends_the_recording_of_prompt_lookup():
    model, ids = build("llama"), tokens(1, 12)
    with lckernels.patched(model, window=W, sink_tokens=S):
        cache = DynamicCache()
        name = next(
            x for x in ("cache", "past_key_values") if x in inspect.signature(model.forward).parameters
        )
        sequence, _, _ = generate(model, {"input_ids": ids}, prompt_lookup_num_tokens=3, **{name: cache})
        generate(model, {"input_ids": sequence}, **{name: cache})
    assert cache.layers[0].keys.shape[2] <= S + W


def test_encoders_keys_stay_in_a_decoder_with_windows_of_its_own():
    model, ids = build("t5gemma"), tokens(1, 36)
    with lckernels.patched(model, window=W), torch.no_grad():
        states = model.get_encoder()(ids[:, :20])
        mask = torch.ones(1, 16, dtype=torch.long)
        options = {"encoder_outputs": states, "decoder_attention_mask": mask}
        expected = model(decoder_input_ids=ids[:, 20:], use_cache=False, **options).logits
        options["decoder_attention_mask"] = mask[:, :15]
        first = model(decoder_input_ids=ids[:, 20:35], use_cache=True, **options)
        options["decoder_attention_mask"] = mask
        name = next(
            x for x in ("cache", "past_key_values") if x in inspect.signature(model.forward).parameters
        )
        last = model(decoder_input_ids=ids[:, 35:], **{name: cache_of(first)}, **options)
    torch.testing.assert_close(last.logits, expected[:, -1:], rtol=1e-5, atol=1e-5)


def test_compiled_steps():
    model, ids = build("llama"), tokens(1)
    with lckernels.patched(model, window=W, sink_tokens=S), torch.no_grad():
        expected = windowed(model, ids)
        _, cache = by_steps(model, ids[:, :20], [20])
        compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
        got = [logits_of(compiled, ids[:, n : n + 1], cache) for n in range(20, 24)]
    torch.testing.assert_close(torch.cat(got, 1), expected[:, 20:24], rtol=1e-5, atol=1e-5)
