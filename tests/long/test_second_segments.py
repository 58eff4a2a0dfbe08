"""Rows of two segments of which the first is longer than a chunk: every chunk reads the second one."""

import pytest
import torch
from helpers.encoder_models import SEP, pad, tiny, token_ids
from helpers.head_models import DOUBLE, TYPED, encoder_of, head_logits, head_model
from helpers.merged_by_hand import merged_by_hand

import lckernels
from lckernels.long.pairs import PairRule, second_segments

CHUNK = 32
TOLERANCE = {"rtol": 1e-11, "atol": 1e-12}


def by_hand(encoder, row, types, lead, trail):
    def read(columns):
        inputs = {} if types is None else {"token_type_ids": types[None, columns]}
        return [encoder(input_ids=row[None, columns], **inputs).last_hidden_state[0]]

    return merged_by_hand(read, len(row), lead=lead, trail=trail, chunk_len=CHUNK)[0][0]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_each_row_has_its_own_trailing_tokens(family):
    model = tiny(family).double()
    encoder = lckernels.LongEncoder(model, CHUNK, summary="mean")
    rows, leads, trails = [token_ids(n) for n in (100, 70, 9, 60)], [1, 4, 1, 2], [7, 1, 5, 12]
    ids, mask = pad(rows, "right")
    with torch.no_grad():
        states = encoder(ids, mask, num_leading=leads, num_trailing=trails).last_hidden_state
        for i, row in enumerate(rows):
            expected = by_hand(model, row, None, leads[i], trails[i])
            torch.testing.assert_close(states[i, : len(row)], expected, **TOLERANCE)
        alone = encoder(ids, mask, num_leading=leads).last_hidden_state
    differs = (states - alone).abs().amax((1, 2))
    assert differs[[0, 3]].min() > 1e-3
    assert differs[[1, 2]].max() < 1e-12


@pytest.mark.parametrize("given", ["num_trailing", "both"])
@pytest.mark.parametrize(
    ("num_trailing", "error"),
    [
        ([1], "num_trailing: got 1 numbers; the input has 2 rows"),
        ([1, -1], "tokens in row 1; the row has"),
        ([1, 60], "tokens in row 1; the row has"),
        ([1, 31], "tokens in row 1; a chunk of 32 tokens has room for"),
    ],
)
def test_bad_numbers(given, num_trailing, error):
    encoder, ids = lckernels.LongEncoder(tiny(), CHUNK), torch.stack([token_ids(60)] * 2)
    leads = {"num_leading": [1, 1]} if given == "both" else {}
    with pytest.raises(ValueError, match=error):
        encoder(ids, num_trailing=num_trailing, **leads)


@pytest.mark.parametrize("option", [{"merge": "layer"}])
def test_merge_in_every_layer(option):
    with pytest.raises(ValueError, match="num_trailing: got list; expected None with merge='layer'"):
        lckernels.LongEncoder(tiny(), CHUNK, **option)(token_ids(60)[None], num_trailing=[3])


def pair(first, second, run):
    """Ids of a pair, and where its second segment begins."""
    separators = torch.full((run,), SEP)
    ids = torch.cat([token_ids(first + 2)[:-1], separators, token_ids(second + 2)[1:]])
    return ids, first + 1 + run


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "xlm_roberta", "mpnet"])
def test_the_short_segment_is_read_by_every_chunk(family):
    """A document before a hypothesis, a question before a context, a row of one chunk: in one batch."""
    model, run = head_model(family, "SequenceClassification"), 2 if family in DOUBLE else 1
    sizes = [(90, 6), (6, 90), (9, 8), (70, 3)]
    pairs = [pair(*size, run) for size in sizes]
    ids, mask = pad([row for row, _ in pairs], "right")
    types = torch.zeros_like(ids)
    for i, (row, start) in enumerate(pairs):
        types[i, start : len(row)] = 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    inputs |= {"token_type_ids": types} if family in TYPED else {}
    lead = [1, 7 + run, 1, 1]
    trail = [6 + run + 1, 1, 1, 3 + run + 1]
    with torch.no_grad():
        states = torch.zeros(*ids.shape, encoder_of(model).config.hidden_size, dtype=torch.float64)
        for i, (row, _) in enumerate(pairs):
            kinds = types[i, : len(row)] if family in TYPED else None
            states[i, : len(row)] = by_hand(encoder_of(model), row, kinds, lead[i], trail[i])
        expected = head_logits(model, "SequenceClassification", states, mask)
        lckernels.lengthen(model, chunk_len=CHUNK)
        torch.testing.assert_close(model(**inputs).logits, expected, **TOLERANCE)


def test_two_segments_longer_than_a_chunk():
    model = head_model("bert", "SequenceClassification")
    lckernels.lengthen(model, chunk_len=CHUNK)
    ids, start = pair(60, 70, 1)
    types = (torch.arange(len(ids)) >= start).long()
    message = "prefix: got a first segment of 62 tokens in row 0; a chunk of 32 tokens has room for 30"
    with pytest.raises(ValueError, match=message):
        model(input_ids=ids[None], token_type_ids=types[None])


@pytest.mark.parametrize(
    ("rule", "ids", "expected"),
    [
        (PairRule(False, SEP, 2), None, [4]),
        (PairRule(False, SEP), [3, 9, SEP, SEP, 8, SEP], [4]),
        (PairRule(True, SEP), [3, 9, 9, SEP, 8, SEP], [3]),
        (PairRule(True, SEP), [3, 9, 9, 9, 8, SEP], [2]),
        (PairRule(True, None), None, [3]),
        (PairRule(True, None), [3, 9, SEP, SEP, 8, SEP], [4]),
        (PairRule(True, None), [3, 9, 9, 9, 8, SEP], [2]),
    ],
)
def test_the_second_segment_begins_with_the_separators_before_it(rule, ids, expected):
    ids = None if ids is None else torch.tensor([ids])
    assert second_segments(rule, ids, torch.tensor([4]), torch.tensor([6]), 1).tolist() == expected
