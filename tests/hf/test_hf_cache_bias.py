"""KV caches of decoders with a relative position bias roll with sink tokens where the bias is constant."""

import pytest
import torch
import transformers
from helpers.hf_cache import cache_argument, cache_of, generate, rolling_layers, tokens
from helpers.hf_models import MODELS, SWITCH, T5, VOCAB, has
from transformers.models.udop.modeling_udop import BaseModelOutputWithAttentionMask

import lckernels
from lckernels.hf.family import bias_distance
from lckernels.hf.patch import plan

# The last bucket begins at distance 6 exactly.
SIZES = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 6}
W, S, N = 6, 2, 40
CLASSES = {
    "t5": "T5", "mt5": "MT5", "umt5": "UMT5", "longt5": "LongT5", "switch": "SwitchTransformers",
    "pop2piano": "Pop2Piano", "udop": "Udop",
}  # fmt: skip
STEPS = {"single": [1] * N, "turns": [9, 1, 1, 12, 1, 15, 1], "long": [20, 19, 1]}
MODES = {
    "greedy": {},
    "static": {"cache_implementation": "static"},
    "beams": {"num_beams": 3},
    "lookup": {"prompt_lookup_num_tokens": 3},
}
CASES = [
    pytest.param(x, marks=pytest.mark.skipif(not has("umt5"), reason=MODELS["umt5"].wrong))
    if x == "umt5"
    else x
    for x in CLASSES
]


def make(name, **sizes):
    torch.manual_seed(0)
    more = SWITCH | {"num_experts": 4} if name == "switch" else {}
    cls, config = (getattr(transformers, CLASSES[name] + x) for x in ("ForConditionalGeneration", "Config"))
    model = cls(config(vocab_size=VOCAB, pad_token_id=0, eos_token_id=2, **T5 | more | SIZES | sizes)).eval()
    for module in model.modules():
        if isinstance(getattr(module, "relative_attention_bias", None), torch.nn.Embedding):
            torch.nn.init.normal_(module.relative_attention_bias.weight, std=2)
    return model


def own_layers(model):
    return [block.layer[0].SelfAttention for block in model.decoder.block]


def by_steps(model, ids, mask, sizes):
    """Logits and the cache of the decoder's calls of these sizes; without a cache if there is one size."""
    if model.config.model_type == "udop":
        states = torch.randn(len(ids), 7, model.config.d_model, generator=torch.Generator().manual_seed(2))
        encoded = BaseModelOutputWithAttentionMask(
            last_hidden_state=states, attention_mask=torch.ones(len(ids), 7)
        )
    else:
        encoded = model.encoder(tokens(len(ids), 7))
    cache, at, out = None, 0, []
    for size in sizes:
        end = at + size
        result = model(
            encoder_outputs=encoded, decoder_input_ids=ids[:, at:end], decoder_attention_mask=mask[:, :end],
            use_cache=len(sizes) > 1, **{cache_argument(model): cache},
        )  # fmt: skip
        cache, at = cache_of(result), end
        out.append(result.logits)
    return torch.cat(out, 1), cache


@pytest.mark.parametrize("num_buckets, max_distance", [(32, 128), (8, 6), (8, 9), (2, 2), (32, 17)])
@pytest.mark.parametrize("name", CASES)
def test_the_bias_is_constant_from_its_distance_on(name, num_buckets, max_distance):
    """The model's own bias of one query, up to four times the distance."""
    sizes = {"relative_attention_num_buckets": num_buckets, "relative_attention_max_distance": max_distance}
    layer = own_layers(make(name, **sizes))[0]
    distance, reach = bias_distance(layer), 4 * max_distance
    bias = layer.compute_bias(1, reach + 1, past_seen_tokens=reach)[0, :, 0].flip(1)
    assert (bias[:, distance:] == bias[:, distance, None]).all()
    assert distance == max_distance
    if (num_buckets, max_distance) == (8, 6):
        assert (bias[:, distance - 1] != bias[:, distance]).any()


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_each_step_is_the_windowed_forward(name, padded, steps):
    model, ids = make(name), tokens(2, N)
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :11], mask[1, :2] = 0, 0
    with patched(model, W), torch.no_grad():
        expected, _ = by_steps(model, ids, mask, [N])
        got, cache = by_steps(model, ids, mask, steps)
    assert (got - expected)[mask.bool()].abs().max() < 1e-5 * expected.abs().max()
    layers = rolling_layers(cache)
    assert len(layers) == len(model.decoder.block)
    # The last call has one token, which is kept beside them.
    assert all(layer.keys.shape[2] == S + W for layer in layers)


def patched(model, window):
    return lckernels.patched(model, window=window, sink_tokens=S)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [x for x in CASES if x not in ("udop", "pop2piano")])
def test_generate_is_that_without_a_cache(name, mode):
    model, rows = make(name), 1 if mode == "lookup" else 2
    ids = tokens(rows, 14)
    mask = torch.ones_like(ids)
    mask[0, : 5 if rows == 2 else 0] = 0
    inputs, options = {"input_ids": ids, "attention_mask": mask}, MODES[mode]
    plain = {name: x for name, x in options.items() if name == "num_beams"}
    with patched(model, W):
        expected, expected_logits, _ = generate(model, inputs, use_cache=False, **plain)
        got, got_logits, cache = generate(model, inputs, **options)
    assert torch.equal(got, expected)
    assert (got_logits - expected_logits).abs().max() < 1e-5 * expected_logits.abs().max()
    assert len(rolling_layers(cache)) == len(model.decoder.block)
    assert all(layer.keys.shape[2] <= S + W + 3 for layer in rolling_layers(cache))


@pytest.mark.parametrize("window, rolls", [(W - 1, False), (W, True)])
def test_a_smaller_window_keeps_every_key(window, rolls):
    model, ids = make("t5"), tokens(2, N)
    mask = torch.ones_like(ids)
    with patched(model, window), torch.no_grad():
        expected, _ = by_steps(model, ids, mask, [N])
        got, cache = by_steps(model, ids, mask, [1] * N)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    assert bool(rolling_layers(cache)) == rolls
    own = cache.self_attention_cache.layers
    assert {layer.keys.shape[2] for layer in own} == {S + window if rolls else N}


def test_without_the_rule_a_smaller_window_is_wrong(monkeypatch):
    """The tests above can fail: a bias that changes between a sink token's two distances."""
    model, ids = make("t5"), tokens(2, N)
    mask = torch.ones_like(ids)
    monkeypatch.setattr(plan, "bias_distance", lambda layer: W - 1)
    with patched(model, W - 1), torch.no_grad():
        expected, _ = by_steps(model, ids, mask, [N])
        got, _ = by_steps(model, ids, mask, [20, 20])
    assert (got - expected).abs().max() > 1e-3 * expected.abs().max()
