"""windowed_attention: the reference against brute force, each backend against the reference."""

import pytest
import torch
import torch.nn.functional as F
from helpers.attention_problem import Problem
from helpers.backends import (
    EXACT_NAN,
    by_backend,
    not_interpreted,
    on_each_isa,
    requires_dtype,
    requires_fallbacks,
    supported,
)
from helpers.brute_force import attention as brute_force_attention
from helpers.brute_force import philox
from helpers.cases import CASES, SMALL_CASES, AttentionCase
from helpers.compare import assert_as_good_as
from helpers.compare_attention import rounding_errors
from helpers.opcheck import opcheck

import lckernels
from lckernels import Layout, Score, reference
from lckernels.fields import INDEX, FlatOptions, flat_options, grouped_options
from lckernels.options import AttentionOptions
from lckernels.philox import philox4x32

pytestmark = [
    pytest.mark.isa_all,
    pytest.mark.triton,
    pytest.mark.triton_all,
    pytest.mark.usefixtures("one_thread"),
]

ops = torch.ops.lckernels
PARAMETERS = {name: INDEX[name] for name in ("rel_bias", "sink_logits")}  # options with a gradient

SEED = torch.tensor([-0x123456789ABCDEF])


def options_of(case: AttentionCase, dtype: torch.dtype, backend: str = "eager", requires_grad: bool = False):
    """The op's flat arguments after q, k, v."""
    score = case.score(case, torch.float64 if dtype == torch.float64 else torch.float32)
    for x in (score.rel_bias, score.sink_logits):
        if x is not None and requires_grad:
            x.requires_grad_()
    seed = SEED if case.dropout_p else None
    scale = case.head_dim**-0.5
    options = AttentionOptions(case.window_size, scale, case.layout(case), score, case.dropout_p, seed)
    return (*flat_options(options), backend)


def grouped(options):
    return grouped_options(FlatOptions(*options[:-1]))


def parameters(options):
    return [options[index] for index in PARAMETERS.values() if options[index] is not None]


def reference_of(q, k, v, options):
    return reference.attend(q, k, v, grouped(options))


by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@by_name
def test_reference_is_the_definition(case):
    q, k, v = case.tensors(torch.float64)
    options = options_of(case, torch.float64)
    out, lse = reference_of(q, k, v, options)
    window_size, scale, layout, score, dropout_p, seed = grouped(options)
    expected = brute_force_attention(
        q, k, v, window_size, scale, layout, score, dropout_p, 0 if seed is None else int(seed)
    )
    torch.testing.assert_close(out, torch.tensor(expected[0], dtype=torch.float64).view(out.shape))
    torch.testing.assert_close(lse, torch.tensor(expected[1], dtype=torch.float64).view(lse.shape))


@on_each_isa
@by_backend
@pytest.mark.parametrize(
    "dtype", supported(torch.float32, torch.bfloat16, torch.float16, torch.float64), ids=str
)
@by_name
def test_forward(case, dtype, backend):
    q, k, v = case.tensors(dtype)
    options = options_of(case, dtype, backend)
    out, lse = ops.windowed_attention(q, k, v, *options)
    truth, truth_lse = reference_of(q.double(), k.double(), v.double(), options)
    honest = truth.to(dtype)  # the rounding of the result alone
    assert out.dtype == dtype and out.is_contiguous()
    assert_as_good_as(out, truth, honest, "out")
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_as_good_as(lse, truth_lse, truth_lse, "lse")


@on_each_isa
@by_backend
@pytest.mark.parametrize("dtype", supported(torch.float32, torch.bfloat16, torch.float16), ids=str)
@by_name
def test_backward_in_low_precision(case, dtype, backend, monkeypatch):
    """Against the reference in fp64; honest is autograd through it with all arithmetic in dtype."""
    q, k, v = case.tensors(dtype)
    options = options_of(case, dtype, backend, requires_grad=True)
    out_like = torch.empty(case.batch, case.seqlen_q, case.num_heads, case.head_dim_v)
    dout = torch.randn_like(out_like).to(dtype)

    def gradients(attend, x, options, dout):
        inputs = [*(t.detach().requires_grad_() for t in x), *parameters(options)]
        out = attend(*inputs[:3], *options)[0]
        return torch.autograd.grad(out, inputs, dout, allow_unused=True, materialize_grads=True)

    def by_reference(q, k, v, *options):
        return reference_of(q, k, v, options)

    wide = [x.detach().double() if isinstance(x, torch.Tensor) and x.requires_grad else x for x in options]
    for x in parameters(wide):
        x.requires_grad_()
    got = gradients(ops.windowed_attention, (q, k, v), options, dout)
    truth = gradients(by_reference, (q.double(), k.double(), v.double()), wide, dout.double())
    rounding = rounding_errors(Problem(q, k, v, grouped(options), dout, None))
    monkeypatch.setattr(reference, "compute_dtype", lambda dtype: dtype)
    honest = gradients(by_reference, (q, k, v), options, dout)
    named = (f"d{name}" for name, index in PARAMETERS.items() if options[index] is not None)
    names = ["dq", "dk", "dv", *named]
    for name, g, t, h in zip(names, got, truth, honest, strict=True):
        assert_as_good_as(g, t, h, name, rounding[name])


@on_each_isa
@requires_dtype(torch.float64)
@by_backend
@by_name
def test_backward_is_that_of_the_reference(case, backend):
    q, k, v = case.tensors(torch.float64, requires_grad=True)
    options = options_of(case, torch.float64, backend, requires_grad=True)
    inputs = [q, k, v, *parameters(options)]
    out, lse = ops.windowed_attention(q, k, v, *options)
    expected_out, expected_lse = reference_of(q, k, v, options)
    dout, dlse = torch.randn_like(out), torch.randn_like(lse)

    def gradients(out, lse):
        seen = torch.isfinite(lse)
        loss = (out * dout).sum() + torch.where(seen, lse, 0).mul(dlse).sum()
        return torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)

    names = ["dq", "dk", "dv", "dparameter", "dparameter"]
    for name, got, want in zip(
        names, gradients(out, lse), gradients(expected_out, expected_lse), strict=False
    ):
        torch.testing.assert_close(got, want, msg=lambda text, name=name: f"{name}: {text}")


@requires_dtype(torch.float64)
@by_backend
@pytest.mark.parametrize("case", SMALL_CASES, ids=lambda case: case.name)
def test_gradcheck(case, backend):
    q, k, v = case.tensors(torch.float64, requires_grad=True)
    options = options_of(case, torch.float64, backend, requires_grad=True)
    seen = torch.isfinite(ops.windowed_attention(q, k, v, *options)[1])

    def run(*inputs):
        out, lse = ops.windowed_attention(*inputs[:3], *options)
        return out, lse[seen]

    assert torch.autograd.gradcheck(run, (q, k, v, *parameters(options)), fast_mode=True)


@pytest.mark.opcheck
@by_backend
@pytest.mark.parametrize("requires_grad", (False, True))
@by_name
def test_opcheck(case, requires_grad, backend, every_trace):
    q, k, v = case.tensors(torch.float32, requires_grad)
    options = options_of(case, torch.float32, backend, requires_grad)
    if backend == "triton" and case not in SMALL_CASES and not every_trace:
        pytest.skip("takes seconds a case in Triton's interpreter; all with --every-trace")
    opcheck(ops.windowed_attention, (q, k, v, *options), every_trace)


@pytest.mark.opcheck
@by_name
def test_opcheck_backward(case, every_trace):
    q, k, v = case.tensors(torch.float32)
    options = options_of(case, torch.float32)
    out, lse = ops.windowed_attention(q, k, v, *options)
    for dlse in (torch.randn_like(lse), None):
        args = (torch.randn_like(out), dlse, q, k, v, out, lse, *options)
        opcheck(ops.windowed_attention_backward, args, every_trace)


def test_full_window_equals_sdpa():
    q, k, v = (torch.randn(2, 9, 4, 16) for _ in range(3))
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]
    got = lckernels.windowed_attention(q, k, v, window_size=(-1, 0))
    want = F.scaled_dot_product_attention(*heads_first, is_causal=True).transpose(1, 2)
    torch.testing.assert_close(got, want)
    got = lckernels.windowed_attention(q, k, v, window_size=(2, 3), softmax_scale=0.5)
    distance = torch.arange(9) - torch.arange(9)[:, None]
    mask = (distance >= -2) & (distance <= 3)
    want = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, scale=0.5).transpose(1, 2)
    torch.testing.assert_close(got, want)


def test_a_scale_of_zero_counts():
    q, k, v = CASES[0].tensors(torch.float32)
    got = lckernels.windowed_attention(q, k, v, softmax_scale=0.0)
    torch.testing.assert_close(got, v.mean(1, keepdim=True).expand_as(got))


@pytest.mark.parametrize("value", (float("nan"), float("inf")))
@pytest.mark.parametrize("layout", ("kv_mask", "segment_ids", "kv_end", "packed"))
def test_invalid_and_foreign_keys_never_leak(value, layout):
    q, k, v = (torch.randn(1, 8, 2, 4) for _ in range(3))
    bad = slice(5, 8)
    for x in (k, v):
        x[:, bad] = value
    rows = torch.tensor([5])
    layouts = {
        "kv_mask": Layout(kv_mask=torch.arange(8)[None] < 5),
        "segment_ids": Layout(segment_ids=(torch.arange(8)[None] >= 5).long()),
        "kv_end": Layout(kv_end=rows),
        "packed": Layout(*(None,) * 4, *(torch.tensor([0, 5, 8], dtype=torch.int32),) * 2),
    }
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    out = lckernels.windowed_attention(*inputs, layout=layouts[layout])
    clean = lckernels.windowed_attention(*(x[:, :5] for x in (q, k, v)))
    torch.testing.assert_close(out[:, :5], clean)
    dq, dk, dv = torch.autograd.grad(out[:, :5].sum(), inputs)
    for name, x in (("dq", dq[:, :5]), ("dk", dk[:, :5]), ("dv", dv[:, :5])):
        assert torch.isfinite(x).all(), name


def test_queries_leak_into_no_key_that_they_do_not_see():
    q, k, v = (torch.randn(1, 6, 2, 4) for _ in range(3))
    q[:, 0] = torch.nan
    inputs = [x.requires_grad_() for x in (q, k, v)]
    layout = Layout(kv_start=torch.tensor([1]))
    out = lckernels.windowed_attention(*inputs, window_size=(2, 0), layout=layout)
    dout = torch.ones_like(out)
    dout[:, 0] = torch.nan
    dq, dk, dv = torch.autograd.grad(out, inputs, dout)
    assert (dq[:, 0] == 0).all()
    assert torch.isfinite(dk).all() and torch.isfinite(dv).all()
    seen = torch.autograd.grad(lckernels.windowed_attention(*inputs, window_size=(2, 0)), inputs, dout)
    assert seen[1][:, 0].isnan().all() and seen[2][:, 0].isnan().all(), "a NaN that is seen must show"
    if EXACT_NAN:
        assert torch.isfinite(seen[1][:, 1:]).all() and torch.isfinite(seen[2][:, 1:]).all()


def test_rows_that_see_nothing():
    q, k, v = (torch.randn(1, 6, 2, 4, requires_grad=True) for _ in range(3))
    layout = Layout(kv_start=torch.tensor([3]))
    out, lse = lckernels.windowed_attention(q, k, v, window_size=(2, 0), layout=layout, return_lse=True)
    assert (out[:, :3] == 0).all() and (lse[:, :, :3] == -torch.inf).all()
    dq, dk, dv = torch.autograd.grad(out.sum() + lse[:, :, 3:].sum(), (q, k, v))
    assert (dq[:, :3] == 0).all() and (dk[:, :3] == 0).all() and (dv[:, :3] == 0).all()
    sink = torch.tensor([0.5, -1.0], requires_grad=True)
    score = Score(sink_logits=sink)
    out, lse = lckernels.windowed_attention(
        q, k, v, window_size=(2, 0), layout=layout, score=score, return_lse=True
    )
    assert (out[:, :3] == 0).all()
    torch.testing.assert_close(lse[0, :, :3], sink.detach()[:, None].expand(2, 3))
    (dsink,) = torch.autograd.grad(lse[:, :, :3].sum(), sink)
    torch.testing.assert_close(dsink, torch.full((2,), 3.0))


def test_strided_inputs_and_no_alias():
    packed = torch.randn(2, 7, 3, 4, 8)
    q, k, v = packed.unbind(2)
    out = lckernels.windowed_attention(q, k, v, window_size=(3, 0))
    want = lckernels.windowed_attention(q.contiguous(), k.contiguous(), v.contiguous(), window_size=(3, 0))
    torch.testing.assert_close(out, want)
    last = torch.randn(2, 7, 8, 4).transpose(2, 3).requires_grad_()
    out = lckernels.windowed_attention(last, last, last, window_size=(3, 0))
    torch.testing.assert_close(
        out, lckernels.windowed_attention(*(last.contiguous(),) * 3, window_size=(3, 0))
    )
    out.sum().backward()
    assert torch.isfinite(last.grad).all()


def test_philox_known_answers():
    for counter, key, want in (
        ([0] * 4, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ([2**32 - 1] * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], 0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ):  # fmt: skip
        signed = key - 2**64 if key >= 2**63 else key
        words = tuple(torch.tensor(word) for word in counter)
        assert tuple(int(x) for x in philox4x32(words, torch.tensor([signed]))) == want
        assert tuple(philox(counter, key)) == want


def test_dropout():
    q, k, v = (torch.randn(1, 200, 2, 8) for _ in range(3))
    torch.manual_seed(1)
    first = lckernels.windowed_attention(q, k, torch.ones_like(v), dropout_p=0.25)
    torch.manual_seed(1)
    assert torch.equal(first, lckernels.windowed_attention(q, k, torch.ones_like(v), dropout_p=0.25))
    assert not torch.equal(first, lckernels.windowed_attention(q, k, torch.ones_like(v), dropout_p=0.25))
    assert abs(first.mean() - 1) < 0.02


def test_second_order_raises():
    q, k, v = CASES[0].tensors(torch.float32, requires_grad=True)
    for loss in (torch.sum, torch.linalg.norm):  # the gradient of a sum is a constant
        out = lckernels.windowed_attention(q, k, v)
        with pytest.raises(RuntimeError, match="windowed_attention: got create_graph=True"):
            torch.autograd.grad(loss(out), q, create_graph=True)


@requires_dtype(torch.bfloat16)
def test_autocast():
    q, k, v = (torch.randn(1, 5, 2, 8, requires_grad=True) for _ in range(3))
    score = Score(sink_logits=torch.zeros(2))
    with torch.autocast("cpu", torch.bfloat16):
        out, lse = lckernels.windowed_attention(q, k.bfloat16(), v, score=score, return_lse=True)
    assert out.dtype == torch.bfloat16 and lse.dtype == torch.float32
    out.float().sum().backward()
    assert q.grad.dtype == torch.float32


@requires_dtype(torch.bfloat16)
def test_backward_under_autocast_keeps_its_precision():
    q, k, v = (torch.randn(1, 9, 2, 8, requires_grad=True) for _ in range(3))
    out = lckernels.windowed_attention(q, k, v)
    dout = torch.randn_like(out)
    plain = torch.autograd.grad(out, (q, k, v), dout, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(out, (q, k, v), dout)
    torch.testing.assert_close(inside, plain, rtol=0, atol=0)


def test_forward_mode_raises():
    q, k, v = (torch.randn(1, 5, 2, 8) for _ in range(3))
    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.jvp(lambda x: lckernels.windowed_attention(x, k, v), (q,), (q,))


def test_vmap_is_a_loop_of_calls():
    q = torch.randn(3, 1, 9, 2, 8, requires_grad=True)

    def attend(q):
        return lckernels.windowed_attention(q, q, q, window_size=(3, 0))

    dout = torch.randn(3, 1, 9, 2, 8)
    outs = torch.vmap(attend)(q), torch.stack([attend(x) for x in q])
    grads = [torch.autograd.grad(out, q, dout)[0] for out in outs]
    torch.testing.assert_close(outs[0], outs[1])
    torch.testing.assert_close(grads[0], grads[1])


@not_interpreted
def test_packed_input_counts_its_own_scores():
    """500 segments of 100 tokens; as one sequence they would have 9 GiB of scores."""
    bounds = torch.arange(0, 50_001, 100, dtype=torch.int32)
    layout = Layout(cu_seqlens_q=bounds, cu_seqlens_k=bounds, max_seqlen_q=100, max_seqlen_k=100)
    q = torch.randn(1, 50_000, 1, 2)
    assert lckernels.windowed_attention(q, q, q, window_size=(5, 0), layout=layout).shape == q.shape


@requires_fallbacks
def test_fallback_over_the_memory_limit_raises(monkeypatch):
    monkeypatch.setattr("lckernels.backends.registry.BACKENDS", ("eager",))
    q = torch.empty(1, 40_000, 1, 8)
    with pytest.raises(lckernels.BackendError, match=r"over the limit of 2 GiB for a fallback"):
        lckernels.windowed_attention(q, q, q, window_size=(64, 0))
