"""LongEncoder over models whose rows depend on padding, on their length, or on each other."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import assert_rows, chunk_by_chunk, pad, tiny, token_ids
from helpers.row_models import make_rows_model

from lckernels import LongEncoder, lengthen
from lckernels.long.chunking import Rows

NOT_INERT = ["fnet", "canine", "funnel", "reformer", "yoso", "convbert"]


def alone(model, ids):
    with torch.no_grad():
        return model(input_ids=ids[None]).last_hidden_state[0]


@pytest.mark.parametrize("name", NOT_INERT)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_of_a_ragged_batch_has_the_states_it_has_alone(name, side):
    model = make_rows_model(name)
    encoder = LongEncoder(model, 64, 16)
    assert encoder.rows is Rows.EQUAL
    rows = [token_ids(length) for length in (64, 62, 47, 62)]
    ids, mask = pad(rows, side)
    with torch.no_grad():
        states = encoder(ids, mask).last_hidden_state
    assert_rows(states, mask, [alone(model, row) for row in rows])


def test_rows_of_one_length_share_a_call():
    model, sizes = make_rows_model("fnet"), []
    model.register_forward_pre_hook(
        lambda model, args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    rows = [token_ids(length) for length in (64, 62, 47, 62)]
    encoder = LongEncoder(model, 64, 16)
    assert sizes == []
    with torch.no_grad():
        encoder(*pad(rows, "right"))
    assert sizes == [(1, 64), (2, 62), (1, 47)]
    assert encoder.explain([64, 62, 47, 62]).num_micro_batches == 3
    assert LongEncoder(tiny(), 32).explain([32, 31, 30]).num_micro_batches == 1


class Wrapped(torch.nn.Module):
    """A BERT whose states `change` maps to others."""

    def __init__(self, change):
        super().__init__()
        self.inner, self.change = tiny(), change
        self.config = self.inner.config

    def forward(self, **inputs):
        output = self.inner(**inputs)
        output["last_hidden_state"] = self.change(output.last_hidden_state)
        return output


def with_the_other_rows(states):
    return states + states.mean(0, keepdim=True)


def test_chunks_of_a_model_whose_rows_are_dependent():
    model, ids = Wrapped(with_the_other_rows), token_ids(90)
    encoder = LongEncoder(model, 20, 6)
    assert encoder.rows is Rows.ALONE
    with torch.no_grad():
        states = encoder(ids[None]).last_hidden_state[0]
    expected = chunk_by_chunk(model, ids, 20, 6)
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)
    assert "rows" in str(encoder.explain(90))


def test_landmarks_fix_the_length_of_a_row():
    model = make_rows_model("nystromformer")
    encoder, ids = LongEncoder(model, 32, 0), token_ids(2 + 4 * 30)
    with torch.no_grad():
        states = encoder(ids[None]).last_hidden_state[0]
        expected = chunk_by_chunk(model, ids, 32, 0)
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)
    assert encoder.explain(len(ids)).num_micro_batches == 4
    message = "input_ids: got a chunk of 16 tokens; NystromformerModel supports rows of 32 tokens only"
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        encoder(token_ids(16).expand(2, -1))
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        LongEncoder(model, 16)(ids[None])


def test_a_short_row_does_not_change_later_ones():
    long, short = token_ids(100), token_ids(20)
    model = make_rows_model("big_bird")
    expected = {len(ids): alone(make_rows_model("big_bird"), ids) for ids in (long, short)}
    encoder, before = LongEncoder(model, 128), {name: id(m) for name, m in model.named_modules()}
    assert encoder.rows is Rows.EQUAL
    with torch.no_grad():
        for ids in (long, short, long, short):
            states = encoder(ids[None]).last_hidden_state[0]
            torch.testing.assert_close(states, expected[len(ids)], rtol=1e-5, atol=1e-5)
        states = encoder(*pad([long, short], "right")).last_hidden_state
    assert_rows(states, pad([long, short], "right")[1], expected.values())
    assert model.attention_type == "block_sparse"
    assert {name: id(m) for name, m in model.named_modules()} == before


def test_a_short_row_does_not_change_later_ones_of_a_lengthened_model():
    long, short = token_ids(300)[None], token_ids(20)
    model = make_rows_model("big_bird")
    alone_short = alone(make_rows_model("big_bird"), short)
    lengthen(model, chunk_len=100, overlap=20)
    with torch.no_grad():
        expected = model(long).last_hidden_state
        assert torch.equal(model(short[None]).last_hidden_state[0], alone_short)
        assert torch.equal(model(long).last_hidden_state, expected)
    assert model.attention_type == "block_sparse"


@pytest.mark.parametrize("attention", ["auto", "lckernels", "model"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "mistral"])
def test_a_decoder_that_its_config_makes_bidirectional(name, attention):
    model, ids = make_rows_model(name, is_causal=False), token_ids(70)
    if attention == "lckernels":
        model.set_attn_implementation("eager")  # transformers 5.17 has no softcap in sdpa
    encoder = LongEncoder(model, 20, 6, attention=attention)
    assert encoder.rows is Rows.ANY
    with torch.no_grad():
        states = encoder(ids[None]).last_hidden_state[0]
        expected = chunk_by_chunk(model, ids, 20, 6)
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match=f"got {type(model).__name__}, a decoder, with causal attention"):
        LongEncoder(make_rows_model(name), 20, 6)


@pytest.mark.parametrize("name", ["llama", "xlnet"])
def test_states_do_not_depend_on_earlier_calls(name):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    options = {"is_causal": False, "rope_parameters": rope, "max_position_embeddings": 32}
    model = make_rows_model(name, **(options if name == "llama" else {}))
    encoder, rows = LongEncoder(model, 32, 6), [token_ids(n) for n in (9, 90, 32)]
    with torch.no_grad():
        first = [encoder(ids[None]).last_hidden_state for ids in rows]
        model(token_ids(90)[None])  # more than its positions: dynamic frequencies are those of 90
        again = [encoder(ids[None]).last_hidden_state for ids in reversed(rows)][::-1]
    for before, after in zip(first, again, strict=True):
        torch.testing.assert_close(before, after)


def test_dynamic_frequencies_of_a_lengthened_model():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    options = {"is_causal": False, "rope_parameters": rope, "max_position_embeddings": 32}
    model, fresh = (make_rows_model("llama", **options) for _ in range(2))
    ids = token_ids(90)[None]
    with torch.no_grad():
        model(ids)  # more than its positions, at once
        for each in (model, fresh):
            lengthen(each, special_tokens=(1, 1), prefix=None)
        assert torch.equal(model(ids).last_hidden_state, fresh(ids).last_hidden_state)


def test_dynamic_frequencies_of_each_type_of_layer_do_not_depend_on_earlier_calls():
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    types = {"full_attention": dynamic, "sliding_attention": dynamic}
    model = make_rows_model(
        "modernbert", rope_parameters=types, global_attn_every_n_layers=2, max_position_embeddings=32
    )
    encoder, ids = LongEncoder(model, 32, 6), token_ids(32)[None]
    with torch.no_grad():
        first = encoder(ids).last_hidden_state
        model(token_ids(90)[None])
        torch.testing.assert_close(encoder(ids).last_hidden_state, first, rtol=0, atol=0)


@pytest.mark.parametrize("lengthened", [False, True])
def test_longrope_of_a_chunk_is_not_that_of_its_neighbours(lengthened):
    """Rows of more than 24 tokens have other frequencies, and all rows of a batch those of the longest."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 24}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 2.0, **factors}
    options = {"is_causal": False, "rope_parameters": rope, "max_position_embeddings": 32}
    model = make_rows_model("llama", **options)
    rows = [token_ids(n) for n in (70, 26, 24)]  # the padding of the last beside the others is little
    with torch.no_grad():
        alone = [model(ids[None]).last_hidden_state[0] for ids in rows[1:]]
        beside = model(*pad(rows[1:], "right")).last_hidden_state[1, :24]
        assert (beside - alone[1]).abs().max() > 1e-2
        encoder = LongEncoder(model, 32, 6, summary="mean")
        expected = [encoder(rows[0][None]).last_hidden_state[0], *alone]
        if lengthened:
            lengthen(model, overlap=6, special_tokens=(1, 1), prefix=None)
        states = (model if lengthened else encoder)(*pad(rows, "right")).last_hidden_state
    assert_rows(states, pad(rows, "right")[1], expected)


@pytest.mark.parametrize(("fraction", "rows"), [(1.0, Rows.ANY), (0.5, Rows.ALONE)])
def test_experts_of_limited_capacity_are_shared_by_rows(fraction, rows):
    model = make_rows_model("nllb_moe", moe_eval_capacity_token_fraction=fraction).get_encoder()
    encoder, ids = LongEncoder(model, 20, 6), token_ids(70)
    assert encoder.rows is rows
    with torch.no_grad():
        states = encoder(ids[None]).last_hidden_state[0]
        expected = chunk_by_chunk(model, ids, 20, 6)
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-4)


class Cumulative(Wrapped):
    """A state is the sum of the embeddings so far, whatever the config has."""

    is_causal = True

    def forward(self, input_ids, attention_mask=None, **options):
        output = self.inner(input_ids, attention_mask, **options)
        output["last_hidden_state"] = self.inner.embeddings(input_ids).cumsum(1)
        return output


def test_causal_models_whatever_the_config_has():
    config = tiny().config
    config.is_decoder = True  # its mask is causal; the attribute is_causal of its layers is False
    with pytest.raises(TypeError, match="got BertModel, a decoder, with causal attention"):
        LongEncoder(transformers.BertModel(config), 20)
    model = Cumulative(None)
    model.config.is_causal = False
    with pytest.raises(TypeError, match="got Cumulative, a decoder, with causal attention"):
        LongEncoder(model, 20)


def test_a_model_that_returns_fewer_states_than_tokens():
    with pytest.raises(
        TypeError, match="got FunnelBaseModel, which returns 6 states for 11 tokens; expected one state per"
    ):
        LongEncoder(make_rows_model("funnel_base"), 20)


@pytest.mark.parametrize("change", [lambda x: x[:, ::2], lambda x: torch.cat([x[:, :4], x], 1)])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_call_that_returns_another_number_of_states(change, gradient):
    # Rows of 16 tokens and less, those of the trial run, have all their states.
    encoder = LongEncoder(Wrapped(lambda x: x if x.shape[1] <= 16 else change(x)), 20, 6)
    expected = {10: 10, 24: 24}[change(torch.zeros(1, 20, 1)).shape[1]]
    with (
        torch.set_grad_enabled(gradient),
        pytest.raises(
            TypeError,
            match=f"got Wrapped, which returns {expected} states for 20 tokens; expected one state per",
        ),
    ):
        encoder(token_ids(70)[None])


def test_the_states_of_a_layer_are_counted_too():
    encoder = LongEncoder(make_rows_model("funnel"), 20, 6)
    message = r"FunnelModel, which returns 10 states in hidden_states\[2\] for 20 tokens"
    with torch.no_grad(), pytest.raises(TypeError, match=message):
        encoder(token_ids(70)[None], output_hidden_states=True)
