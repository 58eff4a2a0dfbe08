"""merge_attention_states: exact over disjoint key sets, differentiable, safe where a state saw nothing."""

import pytest
import torch
from compare import assert_as_good_as

import lckernels
from lckernels import Layout, Score, ops, reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def random_states(dtype, num_states=3, requires_grad=False):
    lse_dtype = reference.compute_dtype(dtype)
    outs = [torch.randn(2, 5, 3, 4, dtype=torch.float64).to(dtype) for _ in range(num_states)]
    lses = [torch.randn(2, 3, 5, dtype=torch.float64).to(lse_dtype) for _ in range(num_states)]
    lses[0][0, 0, :2] = -torch.inf
    if num_states > 1:
        lses[1][0, 0, 0] = -torch.inf
    return [x.requires_grad_(requires_grad) for x in outs], [x.requires_grad_(requires_grad) for x in lses]


def test_is_attention_over_the_union():
    q, k, v = (torch.randn(2, 7, 2, 4, dtype=torch.float64) for _ in range(3))
    score = Score(sink_logits=torch.randn(2, dtype=torch.float64))
    whole = lckernels.windowed_attention(q, k, v, score=score, return_lse=True)
    states = [
        lckernels.windowed_attention(
            q, k[:, part], v[:, part], layout=Layout(), score=score if i == 0 else Score(), return_lse=True
        )
        for i, part in enumerate((slice(0, 3), slice(3, 4), slice(4, 7)))
    ]
    merged = lckernels.merge_attention_states(*zip(*states, strict=True))
    torch.testing.assert_close(merged, whole)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward(dtype):
    outs, lses = random_states(dtype)
    out, lse = lckernels.merge_attention_states(outs, lses)
    truth = reference.merge_attention_states([x.double() for x in outs], [x.double() for x in lses])
    assert out.dtype == dtype
    assert_as_good_as(out, truth[0], truth[0].to(dtype), "out")
    assert_as_good_as(lse, truth[1], truth[1].to(lse.dtype), "lse")


def test_nan_shows():
    outs, lses = random_states(torch.float32)
    outs[2][1, 3], lses[2][1, :, 3] = torch.nan, torch.nan
    out, lse = lckernels.merge_attention_states(outs, lses)
    assert out[1, 3].isnan().all() and lse[1, :, 3].isnan().all()
    assert torch.isfinite(out[1, :3]).all()


def test_all_states_empty():
    out, lse = lckernels.merge_attention_states(
        [torch.full((1, 2, 1, 3), torch.nan)], [torch.full((1, 1, 2), -torch.inf)]
    )
    assert (out == 0).all() and (lse == -torch.inf).all()


def test_gradients():
    outs, lses = random_states(torch.float64, requires_grad=True)
    seen = torch.isfinite(lckernels.merge_attention_states(outs, lses)[1])

    def run(merge):
        out, lse = merge(outs, lses)
        weights = torch.arange(out.numel(), dtype=out.dtype).view(out.shape).cos()
        loss = (out * weights).sum() + lse[seen].sin().sum()
        return torch.autograd.grad(loss, [*outs, *lses])

    for got, want in zip(
        run(lckernels.merge_attention_states), run(reference.merge_attention_states), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_gradcheck():
    outs, lses = (
        [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        for shape in ((1, 3, 2, 2), (1, 2, 3))
    )
    assert torch.autograd.gradcheck(
        lambda *x: lckernels.merge_attention_states(x[:2], x[2:]), (*outs, *lses), fast_mode=True
    )


@pytest.mark.parametrize("requires_grad", (False, True))
def test_opcheck(requires_grad):
    outs, lses = random_states(torch.float32, requires_grad=requires_grad)
    torch.library.opcheck(ops.merge_attention_states, (outs, lses, "eager"))
    out, lse = (x.detach() for x in ops.merge_attention_states(outs, lses, None))
    outs, lses = [x.detach() for x in outs], [x.detach() for x in lses]
    torch.library.opcheck(ops.merge_attention_states_backward, (out, lse, outs, lses, out, lse, None))


def test_compile():
    torch._dynamo.reset()
    compiled = torch.compile(
        lckernels.merge_attention_states, fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for requires_grad in (False, True):
        outs, lses = random_states(torch.float32, requires_grad=requires_grad)
        got, want = compiled(outs, lses), lckernels.merge_attention_states(outs, lses)
        torch.testing.assert_close(got, want)
        if requires_grad:
            for x, y in zip(*(torch.autograd.grad(r[0].sum(), outs) for r in (got, want)), strict=True):
                torch.testing.assert_close(x, y)
