"""halo="exact": the result for chunks is that of the model for the whole row."""

from contextlib import nullcontext

import pytest
import torch
from helpers.encoder_models import SIZES, WIDE, pad, tiny, token_ids
from helpers.windowed_encoders import WINDOWED, modernbert, t5, windowed

import lckernels
from lckernels import LongEncoder
from lckernels.hf.patch.modules import lckernels_attention

transformers = pytest.importorskip("transformers")
CHUNK = 40


def error(ours, whole):
    """The largest difference, relative to the largest state."""
    return float((ours - whole).abs().max() / whole.abs().max())


@pytest.mark.parametrize("attention", ["model", "lckernels"])
@pytest.mark.parametrize("name", WINDOWED)
def test_the_result_is_that_of_the_whole_row_and_one_token_less_is_not(name, attention):
    ids = token_ids(200)[None]
    with windowed(name) as (model, reach), torch.no_grad():
        # LongT5's own attention has its softmax in fp32, so both run on the same attention.
        with lckernels_attention(model) if attention == "lckernels" else nullcontext():
            whole = model(ids).last_hidden_state
        encoder = LongEncoder(model, CHUNK, halo="exact", attention=attention)
        assert encoder.num_chunks(200) > 5
        assert encoder.overlap == max(2 * reach[0], 2 * reach[1] - 1)
        assert error(encoder(ids).last_hidden_state, whole) < 1e-12
        less = LongEncoder(
            model, CHUNK, encoder.overlap - 1, "crop", special_tokens=(0, 0), attention=attention
        )
        assert error(less(ids).last_hidden_state, whole) > 1e-9


@pytest.mark.parametrize("name", ["t5, window (2, 4)", "modernbert"])
def test_every_length(name):
    with windowed(name) as (model, _), torch.no_grad():
        encoder = LongEncoder(model, 24, halo="exact")
        for length in range(1, 80):
            ids = token_ids(length)[None]
            assert error(encoder(ids).last_hidden_state, model(ids).last_hidden_state) < 1e-12, length


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_with_padding_and_every_layer(side):
    rows = [token_ids(length) for length in (120, 7, 61, 41)]
    ids, mask = pad(rows, side)
    model = modernbert()
    encoder = LongEncoder(model, CHUNK, halo="exact")
    with torch.no_grad():
        output = encoder(ids, mask, output_hidden_states=True)
        for i, row in enumerate(rows):
            whole = model(row[None], output_hidden_states=True)
            assert error(output.last_hidden_state[i, mask[i].bool()], whole.last_hidden_state[0]) < 1e-12
            for ours, theirs in zip(output.hidden_states, whole.hidden_states, strict=True):
                assert error(ours[i, mask[i].bool()], theirs[0]) < 1e-12


def test_gradients_are_those_of_the_whole_row():
    model, ids = t5(), token_ids(120)[None]
    lckernels.patch(model, window=8)
    direction = torch.randn(1, 120, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = LongEncoder(model, CHUNK, halo="exact")
    less = LongEncoder(model, CHUNK, exact.overlap - 1, "crop", special_tokens=(0, 0))
    found = []
    for run in (model, exact, less):
        model.zero_grad()
        (run(ids).last_hidden_state * direction).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    # T5 normalizes in fp32, so that its gradients are rounded to that.
    assert error(found[1], found[0]) < torch.finfo(torch.float32).eps < 1e-5 < error(found[2], found[0])


def test_a_stream():
    model = modernbert()
    encoder = LongEncoder(model, CHUNK, halo="exact")
    stream, ids = encoder.stream(), token_ids(150)
    appended = [stream.append(piece) for piece in ids.split(11)]
    states = torch.cat([*(found.final for found in appended), appended[-1].provisional])
    with torch.no_grad():
        assert error(states, model(ids[None]).last_hidden_state[0]) < 1e-12


def test_options_and_what_explain_prints():
    model = modernbert()
    encoder = LongEncoder(model, CHUNK, halo="exact")
    assert (encoder.special_tokens, encoder.weights, encoder.overlap) == ((0, 0), "crop", 16)
    again = LongEncoder(model, **encoder.options)
    assert again.options == encoder.options
    assert encoder.options["halo"] == "exact"
    explained = encoder.explain(200)
    assert (explained.exact, explained.halo, explained.reach.total) == (True, 8, (8, 8))
    assert "result       exact\n" in str(explained)
    assert "reach        8 tokens before a token, 8 after it, through 2 layers\n" in str(explained)
    plain = LongEncoder(model, CHUNK).explain(200)
    assert (plain.exact, plain.reach.total) == (False, (8, 8))
    assert LongEncoder(tiny(), 20).explain(70).reach.total == (None, None)
    assert "reach        all tokens; no window in 2 of 2 layers" in str(LongEncoder(tiny(), 20).explain(70))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"halo": "wide"}, "halo: got 'wide'; expected None or 'exact'"),
        ({"overlap": 16}, "overlap: got 16; halo='exact' sets it"),
        ({"weights": "hann"}, "weights: got 'hann'; halo='exact' requires 'crop'"),
        ({"weights": torch.ones(1, 40)}, "weights: got Tensor; halo='exact' requires 'crop'"),
        ({"boundaries": "max_context"}, "boundaries: got 'max_context'; halo='exact' requires 'sled'"),
        ({"prefix": [5, 6]}, "prefix: got 2 token ids; halo='exact' requires none"),
        ({"special_tokens": (1, 1)}, r"special_tokens: got \(1, 1\); halo='exact' requires \(0, 0\)"),
        ({"chunk_len": 16}, "chunk_len: got 16; halo='exact' requires more than 16: the model's reach to"),
    ],
)
def test_options_that_are_not_exact(options, message):
    with pytest.raises(ValueError, match=message):
        LongEncoder(modernbert(), **{"chunk_len": CHUNK, "halo": "exact", **options})


def test_the_shortest_chunk():
    model, ids = modernbert(), token_ids(90)[None]
    with torch.no_grad():
        ours = LongEncoder(model, 17, halo="exact")(ids).last_hidden_state
        assert error(ours, model(ids).last_hidden_state) < 1e-12


def test_leading_tokens_of_a_row_are_not_exact():
    encoder = LongEncoder(modernbert(), CHUNK, halo="exact")
    with pytest.raises(ValueError, match="num_leading: got list; expected None with halo='exact'"):
        encoder(token_ids(90)[None], num_leading=[3])


def absolute_sinusoids():
    """RoBERTa's kind of positions under another name: no table that is found by its attribute."""
    model = modernbert()
    own = type(model.embeddings)

    def forward(module, input_ids=None, inputs_embeds=None):
        states = own.forward(module, input_ids, inputs_embeds)
        positions = torch.arange(states.shape[1], dtype=states.dtype)[:, None]
        return states + torch.sin(positions / 10 ** torch.linspace(0, 2, states.shape[2], dtype=states.dtype))

    model.embeddings.__class__ = type("Embeddings", (own,), {"forward": forward})
    return model


def scores_by_position():
    """A model whose scores, and nothing else, depend on the position in a row."""
    model = modernbert()
    for layer in model.layers:
        own = type(layer.attn)

        def forward(module, hidden_states, position_embeddings=None, own=own, **options):
            cos, sin = position_embeddings
            scale = torch.arange(1, cos.shape[1] + 1, dtype=cos.dtype)[:, None].sqrt()
            return own.forward(
                module, hidden_states, position_embeddings=(cos * scale, sin * scale), **options
            )

        layer.attn.__class__ = type("ModernBertAttention", (own,), {"forward": forward})
    return model


def mixed_outside_attention():
    """A model in which a token also gets its neighbour's state, without a module for it."""
    model = modernbert()
    own = type(model.layers[0].mlp)

    def forward(module, hidden_states):
        return own.forward(module, hidden_states) + hidden_states.roll(1, 1)

    model.layers[0].mlp.__class__ = type("MLP", (own,), {"forward": forward})
    return model


def dynamic_frequencies():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    return modernbert(rope_parameters={"sliding_attention": rope, "full_attention": rope})


MODELS = {
    "full attention": (t5, None, "SelfAttention .as 1 more. has bidirectional attention without a bound"),
    "one side": (t5, {"window": (4, -1)}, "has bidirectional window attention without a bound"),
    "a table of positions": (
        tiny, {"window": 4}, "a token that is repeated has other states at other positions of a row",
    ),
    "sinusoids": (absolute_sinusoids, None, "a token that is repeated has other states at other positions"),
    "scores": (scores_by_position, None, "the states of a row change with padding before it"),
    "mixing": (mixed_outside_attention, None, "tokens change each other's states outside attention too"),
    "dynamic": (dynamic_frequencies, None, "its rope_type 'dynamic' depends on the length of a row"),
    "own code": (
        lambda: tiny("mpnet"), None, "the reach of its layers is not known: it computes with its",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models_without_an_exact_halo(name):
    make, patch, why = MODELS[name]
    model = make()
    if patch:
        lckernels.patch(model, **patch)
    with pytest.raises(ValueError, match=rf"halo: got 'exact'; \w+ does not support it: .*{why}"):
        LongEncoder(model, 30, halo="exact")


def test_a_model_that_changes_later():
    model, ids = t5(), token_ids(120)[None]
    lckernels.patch(model, window=4)
    encoder = LongEncoder(model, CHUNK, halo="exact")
    encoder(ids)
    lckernels.unpatch(model)
    with pytest.raises(ValueError, match=r"T5EncoderModel does not support it: .* without a bound"):
        encoder(ids)
    lckernels.patch(model, window=6)
    with pytest.raises(ValueError, match="its layers reach further than at construction: 6 tokens before"):
        encoder(ids)


def test_weights_that_come_later():
    config = transformers.BertConfig(**SIZES, **WIDE, max_position_embeddings=32, initializer_range=0.2)
    model = transformers.BertModel(config).eval()
    loaded = {name: weight.clone() for name, weight in model.state_dict().items()}
    for weight in model.parameters():
        weight.data.zero_()
    with lckernels.patched(model, window=4):
        encoder = LongEncoder(model, 20, halo="exact")
        model.load_state_dict(loaded)
        with pytest.raises(ValueError, match="BertModel does not support it: a token that is repeated"):
            encoder(token_ids(50)[None])


def test_construction_does_not_change_the_model():
    model = modernbert()
    config = model.config.to_dict()
    random = torch.get_rng_state()
    before = [dict(module.__dict__) for module in model.modules()]
    LongEncoder(model, CHUNK, halo="exact")
    assert [dict(module.__dict__) for module in model.modules()] == before
    assert (model.config.to_dict(), model.config._attn_implementation) == (config, "sdpa")
    assert torch.equal(torch.get_rng_state(), random)
