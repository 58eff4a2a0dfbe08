"""RelationHead and its loss against ATLOP's definition, written out; bad input."""

import pytest
import torch

from lckernels.tasks import RelationHead, adaptive_threshold_loss


def loss_by_definition(logits, labels):
    """Of one pair: -sum over its relations of log softmax among them and the threshold, and the threshold's
    own among the others."""
    holds = [r for r in range(len(labels)) if labels[r]]
    others = [r for r in range(len(labels)) if not labels[r]]
    above = torch.stack([logits[0], *(logits[1 + r] for r in holds)]).softmax(0)
    below = torch.stack([logits[0], *(logits[1 + r] for r in others)]).softmax(0)
    return -sum(above[1 + n].log() for n in range(len(holds))) - below[0].log()


def test_loss():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor(
        [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1], [0, 1, 1, 1]]
    )
    expected = sum(loss_by_definition(*row) for row in zip(logits, labels, strict=True)) / 6
    torch.testing.assert_close(adaptive_threshold_loss(logits, labels), expected)
    assert torch.autograd.gradcheck(lambda x: adaptive_threshold_loss(x, labels), logits)
    found = adaptive_threshold_loss(logits.bfloat16(), labels.bool())
    assert found.dtype == torch.float32 and found.isfinite()


def test_bilinear_form():
    torch.manual_seed(0)
    head = RelationHead(6, 2, hidden=8, block=4).double()
    h, t = torch.randn(2, 3, 6, dtype=torch.float64)
    output = head(h, t)
    a, b = head.head(h).tanh(), head.tail(t).tanh()
    weight = head.bilinear.weight.view(3, 2, 4, 4)
    expected = torch.stack(
        [
            sum(a[:, 4 * g : 4 * g + 4] @ weight[r, g] * b[:, 4 * g : 4 * g + 4] for g in range(2)).sum(1)
            for r in range(3)
        ],
        1,
    )
    torch.testing.assert_close(output.logits, expected + head.bilinear.bias)
    assert output.loss is None
    labels = torch.tensor([[1, 0], [0, 0], [1, 1]])
    torch.testing.assert_close(head(h, t, labels).loss, adaptive_threshold_loss(output.logits, labels))


def test_bad_input():
    with pytest.raises(ValueError, match=r"^hidden: got 10; expected a multiple of block, 4"):
        RelationHead(6, 2, hidden=10, block=4)
    with pytest.raises(ValueError, match=r"^num_relations: got 0; expected an int >= 1"):
        RelationHead(6, 0)
    head, rows = RelationHead(6, 2), torch.zeros(3, 6)
    with pytest.raises(ValueError, match=r"^tail: got shape \(2, 6\); expected \(3, 6\)"):
        head(rows, rows[:2])
    with pytest.raises(ValueError, match=r"^labels: got shape \(3, 3\); expected \(3, 2\), without the thr"):
        head(rows, rows, torch.zeros(3, 3))
