"""summary="mean" and num_leading: tokens that every chunk reads, against a plain loop over the chunks."""

import pytest
import torch
from helpers.encoder_models import pad, tiny, token_ids
from helpers.merged_by_hand import merged_by_hand

from lckernels.long.encoder import LongEncoder

CHUNK = 24
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def by_hand(model, row, lead, overlap, weights):
    """(states, pieces): the merged states of one row, its first `lead` tokens and its last in every chunk."""

    def read(columns):
        with torch.no_grad():
            return [model(row[columns][None]).last_hidden_state[0]]

    sizes = {"lead": lead, "chunk_len": CHUNK, "overlap": overlap, "weights": weights}
    (states,), pieces = merged_by_hand(read, len(row), **sizes)
    return states, pieces


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("weights", ["triangular", "uniform"])
def test_each_row_has_its_own_leading_tokens(family, weights):
    model = tiny(family).double()
    rows = [token_ids(length) for length in (90, 37, 20, 64)]
    leads, overlap = [1, 7, 9, 12], 5
    ids, mask = pad(rows, "right")
    encoder = LongEncoder(model, CHUNK, overlap, weights, summary="mean")
    states = encoder(ids, mask, num_leading=leads).last_hidden_state
    pieces = []
    for row, lead, merged in zip(rows, leads, states, strict=True):
        expected, count = by_hand(model, row, lead, overlap, weights)
        pieces.append(count)
        torch.testing.assert_close(merged[: len(row)], expected, **TOLERANCE)
        assert not merged[len(row) :].any()
    assert pieces[2] == 1 and min(pieces[0], pieces[1], pieces[3]) > 2


@pytest.mark.parametrize("summary", ["first", "mean"])
def test_rows_of_one_chunk_are_the_models(summary):
    model = tiny("bert")
    row = token_ids(20)
    encoder = LongEncoder(model, CHUNK, 5, summary=summary, attention="model")
    long = token_ids(60)
    ids, mask = pad([row, long], "right")
    states = encoder(ids, mask, num_leading=[6, 3]).last_hidden_state
    with torch.no_grad():
        plain = model(row[None]).last_hidden_state[0]
    torch.testing.assert_close(states[0, :20], plain, rtol=1e-5, atol=1e-6)
    if summary == "first":
        first = torch.cat([long[: CHUNK - 1], long[-1:]])
        torch.testing.assert_close(states[1, :3], model(first[None]).last_hidden_state[0, :3])


def test_gradients_of_the_mean():
    model = tiny("bert").double()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    embeds = torch.randn(1, 40, 16, dtype=torch.float64, requires_grad=True)
    encoder = LongEncoder(model, CHUNK, 4, summary="mean")
    assert torch.autograd.gradcheck(
        lambda x: encoder(inputs_embeds=x, num_leading=[5]).last_hidden_state[:, :5], embeds
    )


def test_recompute_has_the_same_gradients_and_stores_less():
    def run(recompute):
        model = tiny("bert").double()
        encoder = LongEncoder(model, CHUNK, 4, max_tokens=CHUNK, recompute=recompute)
        stored = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: stored.append(x.numel()) or x, lambda x: x):
            states = encoder(token_ids(200)[None]).last_hidden_state
        states.square().sum().backward()
        return sum(stored), [p.grad for p in model.parameters() if p.grad is not None]

    (much, expected), (little, got) = run(False), run(True)
    assert little < much / 4
    assert len(got) == len(expected)
    for ours, plain in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("num_leading", "error"),
    [
        ([1], "num_leading: got 1 numbers; the input has 2 rows"),
        ([1, -1], "num_leading: got -1 tokens in row 1; the row has 59 tokens before its trailing"),
        ([60, 1], "num_leading: got 60 tokens in row 0; the row has 59 tokens before its trailing"),
        ([1, 19], "num_leading: got 19 tokens in row 1; a chunk of 24 tokens has room for 17 beside content"),
    ],
)
def test_bad_numbers_of_leading_tokens(num_leading, error):
    encoder = LongEncoder(tiny("bert"), CHUNK, 5)
    ids = torch.stack([token_ids(60), token_ids(60, seed=1)])
    with pytest.raises(ValueError, match=error):
        encoder(ids, num_leading=num_leading)


def test_the_summary_is_an_option():
    model = tiny("bert")
    assert LongEncoder(model, summary="mean").options["summary"] == "mean"
    with pytest.raises(ValueError, match="summary: got 'last'; allowed are mean, first"):
        LongEncoder(model, summary="last")
    with pytest.raises(ValueError, match="summary: got 'mean'; merge='layer' supports 'first'"):
        LongEncoder(model, summary="mean", merge="layer")
