"""The compiled search for the best labels: against loops in Python, on random problems, and its errors."""

import sys

import pytest
import torch
from helpers.plain_tags import plain_viterbi

from lckernels.tasks.tagging.viterbi import viterbi

INF = float("inf")


def random_problem(seed):
    """Logits, transitions, begin, end; some are -inf, and label 0 is always allowed."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda low, high: int(torch.randint(low, high, (1,), generator=generator))  # noqa: E731
    num_tokens, num_labels, share = draw(1, 60), draw(1, 30), draw(0, 4) / 5
    shapes = (num_tokens, num_labels), (num_labels, num_labels), (num_labels,), (num_labels,)
    parts = []
    for shape in shapes:
        part = torch.randn(shape, generator=generator)
        if draw(0, 2):
            part = part.round()  # ties
        forbidden = torch.rand(shape, generator=generator) < share
        forbidden[..., 0] = False
        parts.append(part.masked_fill(forbidden, -INF))
    return parts


def test_random_problems():
    for seed in range(150):
        problem = random_problem(seed)
        assert viterbi(*problem).tolist() == plain_viterbi(*problem), f"problem {seed}"


def test_texts_are_independent():
    (_, *scores), rows, expected = random_problem(7), [], []
    num_labels = len(scores[1])
    for length in (5, 1, 0, 23):
        logits = torch.randn(length, num_labels)
        rows.append(logits)
        expected += viterbi(logits, *scores).tolist() if length else []
    lengths = [len(logits) for logits in rows]
    assert viterbi(torch.cat(rows), *scores, lengths=lengths).tolist() == expected
    assert viterbi(torch.cat(rows), *scores, lengths=torch.tensor(lengths)).tolist() == expected


def test_log_softmax_gives_the_same_labels():
    """The normalizer of a token is the same for each of its labels."""
    logits, *scores = random_problem(3)
    logits = torch.randn(500, logits.shape[1]) * 5
    assert torch.equal(viterbi(logits, *scores), viterbi(logits.double().log_softmax(1).float(), *scores))


@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16, torch.float16))
def test_dtypes_and_strides(dtype):
    logits = torch.randn(7, 90, requires_grad=True).to(dtype)
    scores = torch.zeros(7, 7).fill_diagonal_(-INF)
    expected = plain_viterbi(logits.T, scores, torch.zeros(7), torch.zeros(7))
    found = viterbi(logits.T, scores.to(dtype))
    assert found.tolist() == expected and found.dtype == torch.int64


def test_a_long_text_has_no_rounding():
    """Sums of 200,000 logits near 100: float32 has a step of 2 there, the labels differ by 1e-3."""
    logits = torch.full((200_000, 2), 100.0)
    logits[100_000, 1] += 1e-3
    stay = torch.tensor([[0.0, -INF], [-INF, 0.0]])
    assert viterbi(logits, stay).unique().tolist() == [1]


def test_more_labels_than_a_byte_holds():
    num_labels = 300
    logits = torch.randn(40, num_labels)
    scores = torch.randn(num_labels, num_labels)
    zeros = torch.zeros(num_labels)
    found = viterbi(logits, scores)
    assert found.tolist() == plain_viterbi(logits, scores, zeros, zeros) and found.max() > 255


def test_no_tokens():
    assert viterbi(torch.zeros(0, 3), torch.zeros(3, 3)).tolist() == []


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"logits": torch.tensor([[0.0, 1.0], [0.0, float("nan")]])},
            "logits: got .*nan at token 1, label 1; ",
        ),
        ({"logits": torch.tensor([[INF, 1.0]])}, "logits: got inf at token 0, label 0; expected finite"),
        ({"logits": torch.tensor([[-INF, -INF]])}, "no sequence of labels is allowed for the tokens 0 to 0"),
        ({"logits": torch.zeros(4)}, "logits"),
        ({"logits": torch.zeros(4, 0), "transitions": torch.zeros(0, 0)}, "expected at least one label"),
        ({"transitions": torch.zeros(2, 3)}, r"transitions: got shape \(2, 3\); expected \(2, 2\)"),
        ({"transitions": torch.full((2, 2), float("nan"))}, "transitions: got .*nan; expected finite"),
        ({"begin": torch.zeros(3)}, "begin: got 3 numbers; expected 2"),
        ({"begin": torch.zeros(1, 2)}, r"begin: got shape \(1, 2\); expected 1 dimensions \(num_labels,\)"),
        ({"end": torch.tensor(0.0)}, r"end: got shape \(\); expected 1 dimensions \(num_labels,\)"),
        ({"end": torch.zeros(2, dtype=torch.bool)}, "end: got dtype torch.bool; allowed are float32"),
        ({"transitions": torch.zeros(2, 2, dtype=torch.int64)}, "transitions: got dtype torch.int64"),
        ({"end": torch.full((2,), -INF)}, "no sequence of labels is allowed for the tokens 0 to 3"),
        ({"lengths": [3]}, "lengths: got a sum of 3; expected 4"),
        ({"lengths": [5, -1]}, "lengths: got 5; expected lengths >= 0 of sum 4"),
        ({"lengths": [2.0, 2.0]}, "lengths: got .*expected a sequence of integers"),
    ],
)
def test_bad_input(change, message):
    arguments = {"logits": torch.zeros(4, 2), "transitions": torch.zeros(2, 2), **change}
    with pytest.raises(ValueError, match=message):
        viterbi(**arguments)


def test_logits_that_are_no_tensor():
    with pytest.raises(TypeError, match="logits: got list; expected a torch"):
        viterbi([[0.0]], torch.zeros(1, 1))


def test_scores_that_are_no_tensors():
    with pytest.raises(TypeError, match=r"begin: got list; expected a torch.Tensor \(num_labels,\)"):
        viterbi(torch.zeros(1, 1), torch.zeros(1, 1), [0.0])


def test_without_the_compiled_extension(monkeypatch):
    monkeypatch.setitem(sys.modules, "lckernels._host", None)
    monkeypatch.delattr("lckernels._host", raising=False)
    with pytest.raises(RuntimeError, match="needs lckernels' compiled extension, which needs a C"):
        viterbi(torch.zeros(1, 1), torch.zeros(1, 1))
