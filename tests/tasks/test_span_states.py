"""States of spans, entities and pairs against plain loops; gradients; Chinese; bad input."""

import pytest
import torch
from helpers.chinese import chinese_bert, chinese_text, chinese_tokenizer

import lckernels
from lckernels.tasks import entity_states, pair_states, span_states
from lckernels.tasks.results import Span

OFFSETS = [(0, 0), (0, 3), (4, 9), (10, 12), (12, 20), (22, 25), (0, 0)]  # a special token at each end
SPANS = [(4, 12), (0, 2), (0, 25), (11, 13), (22, 25)]
TOKENS = [(2, 4), (1, 2), (1, 6), (3, 5), (5, 6)]
POOL = {
    "mean": lambda rows: rows.mean(0),
    "first": lambda rows: rows[0],
    "max": lambda rows: rows.amax(0),
    "logsumexp": lambda rows: rows.exp().sum(0).log(),
}


def random_states(dtype=torch.float64):
    return torch.randn(len(OFFSETS), 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(
        dtype
    )


@pytest.mark.parametrize("how", POOL)
def test_is_that_of_a_loop(how):
    states = random_states()
    expected = torch.stack([POOL[how](states[first:last]) for first, last in TOKENS])
    torch.testing.assert_close(span_states(states, OFFSETS, SPANS, how), expected)
    assert span_states(states, torch.tensor(OFFSETS), [], how).shape == (0, 5)
    half = span_states(states.bfloat16(), OFFSETS, torch.tensor(SPANS), how)
    expected = torch.stack([POOL[how](states.bfloat16().float()[first:last]) for first, last in TOKENS])
    torch.testing.assert_close(half, expected)
    assert half.dtype == torch.float32


@pytest.mark.parametrize("how", POOL)
def test_gradients(how):
    states = random_states().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: span_states(x, OFFSETS, SPANS, how), states)
    entities = [[(4, 12), (0, 2)], [(22, 25)], (10, 20)]
    assert torch.autograd.gradcheck(lambda x: entity_states(x, OFFSETS, entities, how), states)


def test_large_states_have_a_finite_logsumexp():
    states = random_states() * 1e4
    found = span_states(states, OFFSETS, SPANS, "logsumexp")
    torch.testing.assert_close(found[2], states[1:6].logsumexp(0))


def test_white_space_counts_only_without_the_text():
    text = "abc defgh ijklmnopqr  stu"
    assert torch.equal(
        span_states(random_states(), OFFSETS, [(9, 12), (20, 25)], text=text),
        span_states(random_states(), OFFSETS, [(10, 12), (22, 25)]),
    )


def test_an_entity_is_the_logsumexp_of_its_mentions():
    """As in ATLOP, whose mention is the state of its first token."""
    states = random_states()
    entities = [[(4, 12), (0, 2), (11, 13)], (22, 25), [Span(10, 12, "ij", 0.5)]]
    found = entity_states(states, OFFSETS, entities, "first")
    expected = [torch.logsumexp(states[[2, 1, 3]], 0), states[5], states[3]]
    torch.testing.assert_close(found, torch.stack(expected))
    mean = entity_states(states, OFFSETS, entities)
    mentions = torch.stack([states[2:4].mean(0), states[1], states[3:5].mean(0)])
    torch.testing.assert_close(mean[0], mentions.logsumexp(0))
    assert entity_states(states, OFFSETS, []).shape == (0, 5)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_all_ordered_pairs(count):
    entities = random_states()[:count]
    found = pair_states(entities)
    expected = [(i, j) for i in range(count) for j in range(count) if i != j]
    assert [tuple(pair) for pair in found.index.tolist()] == expected
    for row, (i, j) in enumerate(expected):
        assert torch.equal(found.head[row], entities[i]) and torch.equal(found.tail[row], entities[j])
    assert found.head.shape == found.tail.shape == (count * max(count - 1, 0), 5)


def test_given_pairs():
    found = pair_states(random_states(), [(2, 2), (6, 0)])
    assert torch.equal(found.tail, random_states()[[2, 0]])
    assert pair_states(random_states(), []).head.shape == (0, 5)


def test_chinese_characters_over_the_edges_of_chunks():
    """A character that is four bytes of UTF-8 moves no offset; the merged states are one sequence."""
    model, tokenizer, text = chinese_bert(), chinese_tokenizer(), chinese_text()
    encoding = tokenizer(text, return_offsets_mapping=True, verbose=False)
    ids, offsets = torch.tensor(encoding["input_ids"]), encoding["offset_mapping"]
    assert len(ids) == len(text) + 2
    with torch.no_grad():
        states = lckernels.LongEncoder(model)(input_ids=ids[None]).last_hidden_state[0]
    spans = [(i, i + 3) for i in range(len(text) - 2) if text.startswith("\U00020bb7野家", i)]
    assert len(spans) == 12
    found = span_states(states, offsets, spans, text=text)
    expected = torch.stack([states[1 + start : 1 + end].mean(0) for start, end in spans])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"how": "last"}, r"^how: got 'last'; allowed are mean, first, max, logsumexp"),
        ({"states": random_states()[None]}, r"^states: got shape \(1, 7, 5\); expected 2 dimensions"),
        ({"offsets": OFFSETS[1:]}, r"^offsets: got shape \(6, 2\); expected \(7, 2\), a row per state"),
        ({"spans": None}, r"^spans: got None; expected pairs"),
        ({"spans": [(3, 3)]}, r"^spans\[0\]: got \(3, 3\); expected 0 <= start < end, the"),
        ({"spans": [(0, 3), (20, 22)]}, r"^spans\[1\]: got \(20, 22\); the tokenizer makes no token of them"),
        ({"spans": [(30, 32)]}, r"^spans\[0\]: got \(30, 32\); the tokenizer makes no token of them"),
        ({"spans": [(20, 26)], "text": "x" * 25}, r"^spans\[0\]: got \(20, 26\); expected 0 <= .* <= 25"),
    ],
)
def test_bad_input(change, message):
    arguments = {"states": random_states(), "offsets": OFFSETS, "spans": SPANS, **change}
    with pytest.raises(ValueError, match=message):
        span_states(**arguments)


def test_bad_states_and_entities():
    with pytest.raises(TypeError, match=r"^states: got list; expected a torch.Tensor \(num_tokens, dim\)"):
        span_states([1.0], OFFSETS, SPANS)
    for entities, message in [
        ([[]], r"^entities\[0\]: got \[\]; expected a span, as \(start, end\)"),
        ([(0, 3), [(4, 9), 7]], r"^entities\[1\]\[1\]: got 7; expected a span"),
        ("ab", r"^entities: got str; expected a list with an item for each entity"),
        ([[(0, 3), (20, 22)]], r"^entities\[0\]\[1\]: got \(20, 22\); the tokenizer makes no token"),
    ]:
        with pytest.raises(ValueError, match=message):
            entity_states(random_states(), OFFSETS, entities)
    for pairs, message in [
        ([(0, 7)], r"^pairs\[0\]: got \(0, 7\); expected pairs \(head, tail\) of numbers below 7"),
        ([(0, 1, 2)], r"^pairs: got shape \(1, 3\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            pair_states(random_states(), pairs)


def test_too_many_pairs_of_all_entities():
    assert pair_states(torch.zeros(3, 1)).index.shape == (6, 2)
    message = (
        r"^pairs: got None for 20,000 entities, which have 399,980,000 ordered pairs; expected the pairs"
    )
    with pytest.raises(ValueError, match=message):
        pair_states(torch.zeros(20_000, 1))
    assert len(pair_states(torch.zeros(20_000, 1), [(0, 19_999)]).index) == 1
