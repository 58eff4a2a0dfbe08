"""chunked_attention: what a bad value reaches, autocast, orders of differentiation, bad input."""

from dataclasses import replace

import pytest
import torch
from helpers.backends import EXACT_NAN, TESTED, by_backend, requires_dtype, requires_fallbacks
from helpers.chunked_cases import LONG_CASES, ChunkedCase, ChunkedInputs, hand_made_plan

import lckernels
from lckernels import ExtraTokens, Plan, plan_chunks, reference

pytestmark = pytest.mark.triton_all

by_value = pytest.mark.parametrize("value", (float("nan"), float("inf"), float("-inf")))
CASE = ChunkedCase("", lambda: plan_chunks([50], 16, 6), num_extra=1, weights="explicit")
OVERLAP = slice(10, 16)  # the positions that chunks 0 and 1 of the case's plan share


def attend(inputs: ChunkedInputs, backend: str) -> torch.Tensor | tuple:
    """out, or with extra tokens (out, extra_out)."""
    return lckernels.chunked_attention(
        inputs.q, inputs.k, inputs.v, inputs.plan, inputs.weights, extra=inputs.extra, backend=backend
    )


def gradients(inputs: ChunkedInputs, backend: str) -> list:
    """Of the sum of out alone; extra_out gets none."""
    inputs = inputs.mapped(lambda x: x.detach().clone().requires_grad_())
    out = attend(inputs, backend)
    return list(torch.autograd.grad((out if inputs.extra is None else out[0]).sum(), inputs.tensors()))


@by_backend
@by_value
@pytest.mark.parametrize("name", ("k", "v"))
def test_a_bad_key_reaches_the_chunks_that_see_it(name, value, backend):
    plan = hand_made_plan()
    clean = replace(CASE, plan=lambda: plan, num_kv_heads=1).tensors(torch.float32)
    position, seen = 2, torch.zeros(plan.total_len, dtype=torch.bool)
    poisoned = replace(clean, **{name: getattr(clean, name).clone()})
    getattr(poisoned, name)[position] = value
    rows = [row for row in plan.segments.tolist() if row[3]]
    for row in rows:
        if any(other[0] == row[0] and other[2] <= position < other[2] + other[3] for other in rows):
            seen[row[2] : row[2] + row[3]] = True
    assert 0 < seen.sum() < plan.total_len
    (out, extra_out), (want, extra_want) = attend(poisoned, backend), attend(clean, backend)
    shown = EXACT_NAN or name == "v" or value != value  # otherwise a score of -inf has weight 0
    bad = torch.isnan if EXACT_NAN else lambda x: ~x.isfinite()
    if shown:
        assert bad(out[seen]).all() and bad(extra_out[0]).all(), "a bad key that is seen must show"
    torch.testing.assert_close(out[~seen], want[~seen])
    torch.testing.assert_close(extra_out[1:], extra_want[1:])
    got, expected = (gradients(x, backend)[:3] for x in (poisoned, clean))
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x[9:], y[9:])  # the other document
    assert not shown or all(bad(x[position]).all() for x in got[:2])


@pytest.mark.skipif(TESTED != "cpu", reason="compares cpu and eager value by value")
@by_value
@pytest.mark.parametrize("name", ("q", "k", "v"))
@pytest.mark.parametrize("case", LONG_CASES, ids=lambda case: case.name)
def test_a_bad_row_in_or_behind_a_long_chunk(case, name, value):
    """Chunk 0 sees position 150 of `long`; that of `many_segments` is after a segment of chunk 0."""
    inputs = case.tensors(torch.float32)
    getattr(inputs, name)[150] = value
    outs = [[attend(inputs, x)] if inputs.extra is None else attend(inputs, x) for x in ("cpu", "eager")]
    grads = [gradients(inputs, x) for x in ("cpu", "eager")]
    for got, want in zip((*outs[0], *grads[0]), (*outs[1], *grads[1]), strict=True):
        bad = ~want.isfinite()
        assert torch.equal(~got.isfinite(), bad)
        torch.testing.assert_close(got[~bad], want[~bad], atol=1e-4, rtol=1e-4)


@by_backend
@by_value
def test_a_zero_weight_reads_nothing(value, backend):
    inputs = CASE.tensors(torch.float32)
    inputs.weights[0, OVERLAP] = 0
    clean, clean_grads = attend(inputs, backend)[0], gradients(inputs, backend)
    inputs.extra.k[0] = value
    out, _ = attend(inputs, backend)
    assert out[:10].isnan().all()
    torch.testing.assert_close(out[10:], clean[10:])
    grads = gradients(inputs, backend)
    torch.testing.assert_close(grads[0][10:], clean_grads[0][10:])
    dweights = grads[-1]
    assert (dweights[0, OVERLAP] == 0).all(), "the gradient of a zero weight whose row is bad"
    torch.testing.assert_close(dweights[1:], clean_grads[-1][1:])


@by_backend
def test_a_row_of_weight_zero_reaches_no_key(backend):
    inputs = CASE.tensors(torch.float32)
    inputs.weights[0, OVERLAP] = 0
    clean = gradients(inputs, backend)
    inputs.q[12] = torch.nan
    _, dk, dv, *_ = gradients(inputs, backend)
    assert dk[OVERLAP].isnan().all(), "chunk 1 reads the row"
    torch.testing.assert_close((dk[:10], dv[:10]), (clean[1][:10], clean[2][:10]))


@requires_dtype(torch.float64)
@by_backend
def test_gradient_of_a_zero_weight(backend):
    """<dout, out_c - out> / sum of weights there too."""
    inputs = CASE.tensors(torch.float64)
    inputs.weights[0, OVERLAP] = 0
    out, _ = attend(inputs, backend)
    pairs = zip((inputs.q, inputs.k, inputs.v), inputs.extra.tensors(), strict=True)
    rows = (torch.cat([x[:16], extra[0]])[None] for x, extra in pairs)
    own = lckernels.windowed_attention(*rows, backend="eager")[0, :16]
    expected = (own - out[:16]).sum((1, 2))[OVERLAP] / inputs.weights[1, :6]
    torch.testing.assert_close(gradients(inputs, backend)[-1][0, OVERLAP], expected)


@by_backend
def test_extra_tokens_whose_result_is_not_used(backend):
    inputs = CASE.tensors(torch.float32)
    inputs.extra.q[0] = torch.nan
    grads = gradients(inputs, backend)
    assert (grads[3] == 0).all()
    assert all(torch.isfinite(x).all() for x in grads)


@requires_dtype(torch.float64)
@by_backend
def test_only_the_extra_tokens_are_used(backend):
    inputs = CASE.tensors(torch.float64, requires_grad=True)
    dout = torch.randn(inputs.plan.num_chunks, 1, 2, 8, dtype=torch.float64)
    expected = reference.chunked_attention(
        inputs.q, inputs.k, inputs.v, inputs.plan, inputs.weights, extra=inputs.extra
    )
    tensors = inputs.tensors()[:-1]
    got = torch.autograd.grad(attend(inputs, backend)[1], tensors, dout)
    for x, y in zip(got, torch.autograd.grad(expected[1], tensors, dout), strict=True):
        torch.testing.assert_close(x, y)
    assert (got[0] == 0).all()


@by_backend
def test_a_scale_of_zero_counts(backend):
    plan = plan_chunks([50], 64, 16)
    q, k, v = (torch.randn(50, 2, 8) for _ in range(3))
    got = lckernels.chunked_attention(q, k, v, plan, softmax_scale=0.0, backend=backend)
    torch.testing.assert_close(got, v.mean(0, keepdim=True).expand_as(got))


@requires_dtype(torch.bfloat16)
def test_autocast():
    inputs = CASE.tensors(torch.float32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out, extra_out = attend(replace(inputs, k=inputs.k.bfloat16()), None)
    assert out.dtype == extra_out.dtype == torch.bfloat16
    (out.float().sum() + extra_out.float().sum()).backward()
    for x in inputs.tensors():
        assert x.grad.dtype == torch.float32


@requires_dtype(torch.bfloat16)
def test_backward_under_autocast_keeps_its_precision():
    inputs = CASE.tensors(torch.float32, requires_grad=True)
    out, _ = attend(inputs, None)
    plain = torch.autograd.grad(out.square().sum(), inputs.tensors(), retain_graph=True)
    loss = out.square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(loss, inputs.tensors())
    torch.testing.assert_close(inside, plain, rtol=0, atol=0)


def test_second_order_raises():
    inputs = CASE.tensors(torch.float32, requires_grad=True)
    with pytest.raises(RuntimeError, match="chunked_attention: got create_graph=True"):
        torch.autograd.grad(attend(inputs, None)[0].sum(), inputs.q, create_graph=True)


def test_forward_mode_raises():
    inputs = CASE.tensors(torch.float32)
    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.jvp(lambda q: attend(replace(inputs, q=q), None)[0], (inputs.q,), (inputs.q,))


@requires_fallbacks
def test_the_fallback_counts_the_scores_of_one_chunk(monkeypatch):
    """30,000 tokens in chunks of 64 have few scores; one chunk of 30,000 would have 3.4 GiB."""
    monkeypatch.setattr("lckernels.backends.registry.BACKENDS", ("eager",))
    q = torch.randn(30_000, 1, 1)
    assert lckernels.chunked_attention(q, q, q, plan_chunks([30_000], 64, 0)).shape == q.shape
    one = plan_chunks([30_000], 30_000, 0)
    with pytest.raises(lckernels.BackendError, match=r"scores need 3.4 GiB, over the limit of 2 GiB"):
        lckernels.chunked_attention(q, q, q, one)


def _call(**change):
    """A call with some arguments changed; a function changes the valid one."""
    inputs = CASE.tensors(torch.float32)
    args = {name: getattr(inputs, name) for name in ("q", "k", "v", "plan", "weights", "extra")}
    for name, value in change.items():
        args[name] = value(args[name]) if callable(value) else value
    lckernels.chunked_attention(**args)


def _extra(**change):
    return lambda extra: replace(extra, **{n: f(getattr(extra, n)) for n, f in change.items()})


ERRORS = {
    "type": ({"v": [1]}, r"v: got list; expected a torch.Tensor \(total_len, num_kv_heads, head_dim_v\)"),
    "rank": ({"q": lambda x: x[None]}, r"q: got shape \(1, 50, 2, 8\); expected 3 dimensions \(total_len"),
    "dtype": ({"q": lambda x: x.int()}, r"q: got dtype torch.int32; allowed are float32"),
    "dtypes": ({"k": lambda x: x.double()}, r"k: got dtype torch.float64; q has torch.float32"),
    "device": ({"v": lambda x: x.to("meta")}, r"v: got device meta; q is on cpu"),
    "head_dim": ({"k": lambda x: x[..., :4]}, r"k: got head_dim 4; q has head_dim 8"),
    "no_head_dim": ({"q": lambda x: x[..., :0]}, r"q: got head_dim 0; expected head_dim >= 1"),
    "heads": ({"q": lambda x: x[:, :1]}, r"q: got 1 heads; the number must be a multiple of k's 2 heads"),
    "kv": ({"v": lambda x: x[:, :1]}, r"v: got shape \(50, 1, 8\); k has shape \(50, 2, 8\)"),
    "total_len": ({"q": lambda x: x[:9]}, r"q: got shape \(9, 2, 8\); the plan has total_len = 50"),
    "total_len_k": (
        {"k": lambda x: x[:9], "v": lambda x: x[:9]},
        r"k: got shape \(9, 2, 8\); the plan has total_len = 50",
    ),
    "plan": ({"plan": lambda x: x.segments}, r"plan: got Tensor; expected a lckernels.Plan"),
    "plan_device": (
        {"plan": lambda x: x.to("meta")},
        r"plan: got device meta; q is on cpu; use plan.to\(device\)",
    ),
    "crop": (
        {
            "plan": Plan.from_segments(
                [[0, 0, 0, 50], [1, 0, 40, 10]], num_chunks=2, chunk_len=50, total_len=50
            ),
            "weights": "crop",
        },
        r"plan: got position 40 in no or several keep ranges; weights='crop' needs exactly one",
    ),
    "weights": ({"weights": "box"}, r"weights: got 'box'; allowed are uniform, triangular, hann, crop or a"),
    "weights_shape": ({"weights": torch.ones(4)}, r"weights: got shape \(4,\); expected \(5, 16\)"),
    "weights_zero": (
        {"weights": torch.zeros(5, 16)},
        r"weights: got values negative, not finite or of sum zero at position 0; expected finite ones",
    ),
    "weights_negative": ({"weights": lambda x: -x}, r"weights: got values negative, .* at position 0"),
    "extra": ({"extra": ()}, r"extra: got tuple; expected a lckernels.ExtraTokens"),
    "extra_type": (
        {"extra": ExtraTokens(None, None, None)},
        r"extra.q: got NoneType; expected a torch.Tensor",
    ),
    "extra_rank": (
        {"extra": _extra(k=lambda x: x[0])},
        r"extra.k: got shape \(1, 2, 8\); expected 4 dimensions",
    ),
    "extra_chunks": (
        {"extra": _extra(q=lambda x: x[:2])},
        r"extra.q: got shape \(2, 1, 2, 8\); expected \(num_chunks, num_extra, heads, head_dim\) = "
        r"\(5, 1, 2, 8\)",
    ),
    "extra_count": (
        {"extra": _extra(v=lambda x: x.repeat(1, 2, 1, 1))},
        r"extra.v: got shape \(5, 2, 2, 8\); expected .* = \(5, 1, 2, 8\)",
    ),
    "extra_dtype": ({"extra": _extra(k=lambda x: x.half())}, r"extra.k: got dtype torch.float16; q has"),
    "extra_device": ({"extra": _extra(v=lambda x: x.to("meta"))}, r"extra.v: got device meta; q is on cpu"),
    "scale": ({"softmax_scale": float("nan")}, r"softmax_scale: got nan; expected a finite number"),
    "scale_type": ({"softmax_scale": "1"}, r"softmax_scale: got '1'; expected a number"),
    "backend": ({"backend": "tpu"}, r"backend: got 'tpu'; allowed are cpu, triton, cuda, eager"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input(name):
    change, message = ERRORS[name]
    if name in ("weights_zero", "weights_negative") and TESTED == "triton":
        pytest.skip("the triton backend reads no values on the host")
    with pytest.raises((ValueError, TypeError), match=message):
        _call(**change)
