"""LongEncoder as a module: special tokens, copies, dtypes, replicas, devices, exact gradients."""

# ruff: noqa: E402
import copy

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import FAMILIES, pad, tiny, token_ids
from helpers.replicas import replicas_of

import lckernels
import lckernels.long.merging


def rows_of(plan):
    """(row, col, start, length) of each segment, in order of rows."""
    return sorted(tuple(segment[:4]) for segment in plan.segments.tolist() if segment[3])


@pytest.mark.parametrize(("leading", "trailing"), [(2, 1), (0, 1), (1, 0), (0, 0), (3, 2)])
@pytest.mark.parametrize("side", ["right", "left"])
def test_special_tokens_of_any_number(leading, trailing, side):
    model, chunk_len, overlap = tiny(), 12, 3
    lengths = (40, leading + trailing + 1, 12, 27)
    texts = [token_ids(max(n, 2))[:n] for n in lengths]
    ids, mask = pad(texts, side)
    encoder = lckernels.LongEncoder(model, chunk_len, overlap, "uniform", special_tokens=(leading, trailing))
    with torch.no_grad():
        output = encoder(ids, mask).last_hidden_state
        for i, row in enumerate(texts):
            inside = row[leading : len(row) - trailing]
            plan = lckernels.plan_chunks(
                len(inside), chunk_len, overlap, num_leading=leading, num_trailing=trailing
            )
            total, count, parts = torch.zeros(len(row), 16), torch.zeros(len(row), 1), rows_of(plan)
            for part, (_, _, start, length) in enumerate(parts):
                chunk = torch.cat([row[:leading], inside[start : start + length], row[len(row) - trailing :]])
                state = model(input_ids=chunk[None]).last_hidden_state[0]
                first = 0 if part == 0 else leading
                last = len(chunk) if part == len(parts) - 1 else leading + length
                total[start + first : start + last] += state[first:last]
                count[start + first : start + last] += 1
            torch.testing.assert_close(output[i][mask[i].bool()], total / count, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_of_a_ragged_batch(family, monkeypatch):
    model = tiny(family)
    encoder = lckernels.LongEncoder(model, 20, 6, max_tokens=50)
    texts = [token_ids(70), token_ids(5), token_ids(33)]
    ids, mask = pad(texts, "left")
    merges, merge = [], lckernels.long.merging.overlap_merge
    monkeypatch.setattr(
        lckernels.long.merging, "overlap_merge", lambda *args: merges.append(1) or merge(*args)
    )
    with torch.no_grad():
        output = encoder(ids, mask, output_hidden_states=True)
        assert len(merges) == len(output.hidden_states) == 3
        assert output.hidden_states[-1] is output.last_hidden_state
        for i, row in enumerate(texts):
            alone = encoder(row[None], output_hidden_states=True)
            for ours, theirs in zip(output.hidden_states, alone.hidden_states, strict=True):
                torch.testing.assert_close(ours[i][mask[i].bool()], theirs[0], rtol=1e-5, atol=1e-5)
                assert (ours[i][~mask[i].bool()] == 0).all()


class Doubled(torch.nn.Module):
    """A model whose last_hidden_state is not the last of its hidden_states."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, **inputs):
        output = self.model(**inputs)
        output.last_hidden_state = 2 * output.last_hidden_state
        return output


def test_last_state_that_is_no_layers_state():
    model, ids = tiny(), token_ids(70)[None]
    with torch.no_grad():
        plain = lckernels.LongEncoder(model, 20, 6)(ids, output_hidden_states=True)
        output = lckernels.LongEncoder(Doubled(model), 20, 6)(ids, output_hidden_states=True)
    assert len(output.hidden_states) == 3
    torch.testing.assert_close(output.hidden_states[-1], plain.last_hidden_state)
    torch.testing.assert_close(output.last_hidden_state, 2 * plain.last_hidden_state)


def test_a_copy_is_a_module_of_its_own():
    encoder, ids = lckernels.LongEncoder(tiny(), 20, 6, prefix=[7, 8]), token_ids(70)[None]
    again = copy.deepcopy(encoder)
    with torch.no_grad():
        expected = encoder(ids).last_hidden_state
        assert torch.equal(again(ids).last_hidden_state, expected)
        next(encoder.parameters()).zero_()
        assert torch.equal(again(ids).last_hidden_state, expected)


def test_state_dict_is_the_models():
    one, two = (lckernels.LongEncoder(tiny(seed=seed), 20, 6, prefix=[7]) for seed in (0, 1))
    assert one.state_dict().keys() == {f"model.{name}" for name in one.model.state_dict()}
    two.load_state_dict(one.state_dict())
    with torch.no_grad():
        states = [encoder(token_ids(70)[None]).last_hidden_state for encoder in (one, two)]
    assert torch.equal(*states)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_of_the_module(dtype):
    encoder, ids = lckernels.LongEncoder(tiny(), 20, 6, prefix=[7]), token_ids(70)[None]
    with torch.no_grad():
        expected = encoder(ids).last_hidden_state
        states = encoder.to(dtype)(ids).last_hidden_state
    assert encoder.dtype == states.dtype == dtype
    assert encoder.prefix.dtype == torch.int64
    tolerance = 1e-4 if dtype == torch.float64 else 0.2
    torch.testing.assert_close(states.float(), expected, rtol=tolerance, atol=tolerance)


def test_a_replica_without_parameters_has_a_device():
    encoder = lckernels.LongEncoder(tiny(), 20, 6)
    (replica,) = replicas_of(encoder, lambda tensor: tensor.to("meta", torch.float16))
    assert replica.device == torch.device("meta")
    assert replica.dtype == torch.float16


def test_prefix_is_made_where_the_model_is():
    with torch.device("meta"):
        model = transformers.BertModel(tiny().config)
    encoder = lckernels.LongEncoder(model, 20, 6, prefix=[7])
    assert encoder.device == encoder.prefix.device == torch.device("meta")


@pytest.mark.parametrize("merge", ["final", "layer"])
def test_default_device_is_not_used(merge):
    model = tiny()
    ids, mask = pad([token_ids(70), token_ids(2), token_ids(12)], "left")
    options = {"boundaries": "sentence", "prefix": [7], "merge": merge}
    encoder = lckernels.LongEncoder(model, 20, 6, **options)
    with torch.no_grad():
        expected = encoder(ids, mask, sentence_boundaries=[[20, 30], [], [65]]).last_hidden_state
        torch.set_default_device("meta")
        try:
            encoder = lckernels.LongEncoder(model, 20, 6, **options)
            output = encoder(ids, mask, sentence_boundaries=[[20, 30], [], [65]]).last_hidden_state
            assert encoder.plan([70, 2], [[20], []]).device.type == "cpu"
            assert encoder.explain([70, 2]).num_chunks > 2
        finally:
            torch.set_default_device(None)
    assert torch.equal(output, expected)


def by_matrix(model, embeds, plan, weights):
    """States (seqlen, dim) of one sequence without special tokens, merged by one dense matrix."""
    states, matrix = [], []
    for row, col, start, length in rows_of(plan):
        states.append(model(inputs_embeds=embeds[None, start : start + length]).last_hidden_state[0])
        place = torch.zeros(len(embeds), length, dtype=embeds.dtype)
        place[start : start + length] = torch.eye(length, dtype=embeds.dtype)
        matrix.append(place * weights[row, col : col + length])
    matrix = torch.cat(matrix, dim=1)
    return (matrix / matrix.sum(1, keepdim=True)) @ torch.cat(states)


def test_gradients_of_embeddings_and_weights_are_those_of_a_dense_matrix():
    model = tiny().double().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    options = {"special_tokens": (0, 0), "max_tokens": 30}
    plan = lckernels.LongEncoder(model, 12, 5, **options).plan(40)
    target = torch.randn(40, 16, dtype=torch.float64, generator=generator)
    embeds = torch.randn(40, 16, dtype=torch.float64, generator=generator).requires_grad_()
    weights = torch.rand(plan.num_chunks, plan.chunk_len, dtype=torch.float64, generator=generator) + 0.1
    weights.requires_grad_()
    ours = lckernels.LongEncoder(model, 12, 5, weights, **options)(inputs_embeds=embeds[None])
    truth = by_matrix(model, embeds, plan, weights)
    torch.testing.assert_close(ours.last_hidden_state[0], truth, rtol=1e-10, atol=1e-10)
    ours = torch.autograd.grad((ours.last_hidden_state[0] * target).sum(), [embeds, weights])
    expected = torch.autograd.grad((truth * target).sum(), [embeds, weights])
    assert all(gradient.abs().amax(-1).min() > 0 for gradient in expected)
    for mine, dense in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, dense, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lengths", [0, 1, [70, 1]])
def test_texts_too_short_to_plan(lengths):
    encoder = lckernels.LongEncoder(tiny(), 20, 6)
    at = len(lengths) - 1 if isinstance(lengths, list) else 0
    tokens = lengths[at] if isinstance(lengths, list) else lengths
    said = f"got {tokens} tokens for sequence {at}; expected at least its 2 special tokens"
    with pytest.raises(ValueError, match=f"lengths: {said}"):
        encoder.plan(lengths)
    with pytest.raises(ValueError, match=f"seqlen: {said}"):
        encoder.explain(lengths)


def test_no_text_to_plan():
    encoder = lckernels.LongEncoder(tiny(), 20, 6, special_tokens=(0, 0))
    with pytest.raises(ValueError, match="lengths: got no sequence; expected the tokens of one sequence"):
        encoder.plan([])
    with pytest.raises(ValueError, match="seqlen: got no sequence"):
        encoder.explain([])
    with pytest.raises(ValueError, match="lengths: got 0 tokens for sequence 1; expected at least one token"):
        encoder.plan([5, 0])
    with pytest.raises(
        ValueError, match=r"lengths: got shape .* of torch.float32; expected an int or a sequence of int"
    ):
        encoder.plan([5.5])


@pytest.mark.parametrize(
    ("boundaries", "message"),
    [
        ([[], [9, 5]], r"sentence_boundaries\[1\]: got 5 after 9; expected rising columns"),
        (
            [[], [5.5]],
            r"sentence_boundaries\[1\]: got shape \(1,\) of torch.float32; expected a sequence of int",
        ),
        ([[], ["a"]], r"sentence_boundaries\[1\]: got \['a'\]; expected a sequence of integers"),
        ([[], [[1, 2]]], r"sentence_boundaries\[1\]: got shape \(1, 2\)"),
    ],
)
def test_sentence_boundaries_are_named_by_the_callers_row(boundaries, message):
    ids, mask = pad([token_ids(2), token_ids(60)], "left")
    encoder = lckernels.LongEncoder(tiny(), 20, 6, boundaries="sentence")
    with pytest.raises(ValueError, match=message):
        encoder(ids, mask, sentence_boundaries=boundaries)


@pytest.mark.parametrize("prefix", [[1.5], ["a"], [[1, 2]], [True]])
def test_prefix_is_integers(prefix):
    with pytest.raises(ValueError, match=r"prefix: got .*; expected a sequence of integers"):
        lckernels.LongEncoder(tiny(), 20, prefix=prefix)


def test_a_long_encoder_is_no_model_for_another():
    with pytest.raises(TypeError, match="model: got a LongEncoder; pass the encoder in it"):
        lckernels.LongEncoder(lckernels.LongEncoder(tiny(), 20))


def test_arguments_behind_the_mask_have_names():
    with pytest.raises(TypeError, match="takes from 1 to 3 positional arguments but 4 were given"):
        lckernels.LongEncoder(tiny(), 20)(token_ids(40)[None], None, torch.zeros(1, 40, 16))
