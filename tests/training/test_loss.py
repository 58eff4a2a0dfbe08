"""Cross entropy of a linear head in pieces, against torch's on all logits."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lckernels.training import loss as losses
from lckernels.training.loss import head_cross_entropy, linear_cross_entropy

TOKENS, DIM, VOCAB = 37, 8, 50
ALL = {"scale": 2.0, "softcap": 3.0, "label_smoothing": 0.2}
NEEDS_TORCH = pytest.mark.skipif(not losses.has_torch_loss(), reason="torch has no linear_cross_entropy")
WAYS = [pytest.param(True, marks=NEEDS_TORCH, id="torch"), pytest.param(False, id="pieces")]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    monkeypatch.setattr(losses, "has_torch_loss", lambda: request.param)
    monkeypatch.setattr(losses, "PIECE_BYTES", 4 * VOCAB * 10)  # 10 tokens a piece
    return request.param


def problem(dtype=torch.float64, bias=True):
    states = torch.randn(TOKENS, DIM).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, DIM).to(dtype).requires_grad_()
    offset = torch.randn(VOCAB).to(dtype).requires_grad_() if bias else None
    return states, weight, offset, torch.randint(0, VOCAB, (TOKENS,))


def truth(states, weight, bias, labels, scale=1.0, softcap=None, label_smoothing=0.0):
    states, weight, bias = (x if x is None else x.double() for x in (states, weight, bias))
    logits = scale * F.linear(states, weight, bias)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


def grads(loss, inputs):
    inputs = [x for x in inputs if x is not None and x.requires_grad]
    return torch.autograd.grad(3 * loss, inputs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"scale": 0.3}, {"softcap": 2.0}, {"label_smoothing": 0.1}, ALL],
    ids=str,
)
def test_equals_cross_entropy(way, options, bias):
    *inputs, labels = problem(bias=bias)
    expected = truth(*inputs, labels, **options)
    found, of_tokens = linear_cross_entropy(*inputs, labels, **options)
    torch.testing.assert_close(found, expected.sum(), rtol=1e-12, atol=0)
    for one, other in zip(grads(found, inputs), grads(expected.sum(), inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    if of_tokens is not None:
        torch.testing.assert_close(of_tokens, expected.detach(), rtol=1e-12, atol=1e-12)
        assert not of_tokens.requires_grad
    with torch.no_grad():
        found, of_tokens = linear_cross_entropy(*inputs, labels, **options)
    torch.testing.assert_close(of_tokens, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, expected.sum().detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_a_frozen_input_gets_no_gradient(way, frozen):
    *inputs, labels = problem()
    inputs[frozen].requires_grad_(False)
    expected = grads(truth(*inputs, labels).sum(), inputs)
    for one, other in zip(grads(linear_cross_entropy(*inputs, labels)[0], inputs), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_returns_fp32(way, dtype):
    """The error is at most twice that of torch's arithmetic on all logits."""
    *inputs, labels = problem(dtype)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = truth(*wide, labels).sum()
    plain = F.cross_entropy(F.linear(*inputs).float(), labels, reduction="sum")
    found, _ = linear_cross_entropy(*inputs, labels)
    assert found.dtype == torch.float32
    assert (found - expected).abs() <= 2 * (plain - expected).abs() + 1e-5 * expected
    triples = zip(grads(found, inputs), grads(plain, inputs), grads(expected, wide), strict=True)
    for one, other, exact in triples:
        assert one.dtype == dtype
        assert (one - exact).abs().max() <= 2 * (other - exact).abs().max() + 1e-6


def test_autocast_is_that_of_a_linear_layer(way):
    states, weight, bias, labels = problem(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = linear_cross_entropy(states, weight, bias, labels)
        plain = F.cross_entropy(F.linear(states, weight, bias).float(), labels, reduction="sum")
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=0)
    assert grads(found, (states, weight, bias))[1].dtype == torch.float32


def test_no_tokens_are_a_loss_of_zero(way):
    *inputs, labels = problem()
    states = inputs[0][:0]
    found, of_tokens = linear_cross_entropy(states, *inputs[1:], labels[:0])
    assert found == 0 and of_tokens.shape == (0,)
    assert all((x == 0).all() for x in grads(found, inputs))
    found, _ = head_cross_entropy(states, lambda x: F.linear(x, *inputs[1:]), labels[:0], 10)
    assert found == 0 and all((x == 0).all() for x in grads(found, inputs))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_any_head(smoothing):
    *inputs, labels = problem()
    expected = truth(*inputs, labels, label_smoothing=smoothing)
    head = partial(F.linear, weight=inputs[1], bias=inputs[2])
    found, of_tokens = head_cross_entropy(inputs[0], head, labels, 10, smoothing)
    torch.testing.assert_close(of_tokens, expected.detach(), rtol=1e-12, atol=1e-12)
    for one, other in zip(grads(found, inputs), grads(expected.sum(), inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def second_order(loss, inputs):
    """The gradients of the gradients' squares."""
    first = torch.autograd.grad(loss, inputs, create_graph=True)
    return torch.autograd.grad(sum(x.square().sum() for x in first), inputs)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}], ids=str)
def test_the_second_order_is_an_error(way, options):
    """Without it the gradient is a constant: a second-order gradient without the terms of the head."""
    *inputs, labels = problem()
    loss, _ = linear_cross_entropy(*inputs, labels, **options)
    with pytest.raises(RuntimeError, match=r"loss\.linear_cross_entropy: got create_graph=True"):
        torch.autograd.grad(loss, inputs, create_graph=True)
    loss, _ = head_cross_entropy(inputs[0], lambda x: F.linear(x, *inputs[1:]), labels, 10)
    plain = truth(*inputs, labels).sum()
    found, expected = (
        torch.autograd.grad(
            sum(x.square().sum() for x in torch.autograd.grad(y, inputs, create_graph=True)), inputs
        )
        for y in (loss, plain)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


class Largest(TorchDispatchMode):
    """The largest number of elements of a result."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        found = [x.numel() for x in (result if isinstance(result, tuple) else [result]) if torch.is_tensor(x)]
        self.numel = max(self.numel, *found, 0) if found else self.numel
        return result


def test_logits_never_exist_whole(monkeypatch):
    monkeypatch.setattr(losses, "has_torch_loss", lambda: False)
    monkeypatch.setattr(losses, "PIECE_BYTES", 4 * VOCAB * 10)
    *inputs, labels = problem()
    with Largest() as pieces:
        grads(linear_cross_entropy(*inputs, labels)[0], inputs)
    with Largest() as whole:
        grads(truth(*inputs, labels).sum(), inputs)
    assert whole.numel == TOKENS * VOCAB and pieces.numel == 10 * VOCAB
