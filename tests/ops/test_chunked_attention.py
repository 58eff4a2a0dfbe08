"""chunked_attention: the reference by brute force, each backend against the reference."""

import pytest
import torch
from helpers.backends import by_backend, on_each_isa, requires_dtype, supported
from helpers.brute_force import chunked_attention as brute_force_chunked_attention
from helpers.chunked_cases import CASES, LONG_CASES, ChunkedInputs
from helpers.compare import assert_as_good_as
from helpers.opcheck import opcheck

import lckernels
from lckernels import ExtraTokens, Layout, plan_chunks, reference

ops = torch.ops.lckernels

pytestmark = [pytest.mark.isa_all, pytest.mark.triton_all]

DTYPES = supported(torch.float32, torch.bfloat16, torch.float16)
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
on_triton_in_ci = pytest.mark.cases(triton=lambda case: case.name.startswith("by_hand"))
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def run(inputs: ChunkedInputs, backend: str | None = None) -> list:
    """The results of the public function: out, and extra_out where there is extra."""
    out = lckernels.chunked_attention(
        inputs.q, inputs.k, inputs.v, inputs.plan, inputs.weights, extra=inputs.extra, backend=backend
    )
    return [out] if inputs.extra is None else list(out)


def by_reference(inputs: ChunkedInputs) -> list:
    results = reference.chunked_attention(
        inputs.q, inputs.k, inputs.v, inputs.plan, inputs.weights, extra=inputs.extra
    )
    return [x for x in results if x is not None]


def with_gradients(attend, inputs: ChunkedInputs, douts: list) -> list:
    """Results, then the gradients of inputs.tensors()."""
    inputs = inputs.mapped(lambda x: x.detach().clone().requires_grad_())
    results = attend(inputs)
    used = [(x, dx) for x, dx in zip(results, douts, strict=True) if x.requires_grad]
    outputs, given = zip(*used, strict=True)
    grads = torch.autograd.grad(outputs, inputs.tensors(), given, allow_unused=True, materialize_grads=True)
    return [x.detach() for x in (*results, *grads)]


def names(inputs: ChunkedInputs) -> list:
    extra = ["extra_q", "extra_k", "extra_v"] if inputs.extra is not None else []
    tensors = ["q", "k", "v", *extra, "weights"][: len(inputs.tensors())]
    return ["out", *(["extra_out"] if extra else []), *(f"d{name}" for name in tensors)]


@on_triton_in_ci
@by_case
def test_reference_is_the_definition(case):
    inputs = case.tensors(torch.float64)
    out, *extra_out = by_reference(inputs)
    scale = case.head_dim**-0.5
    expected, expected_extra = brute_force_chunked_attention(
        inputs.q, inputs.k, inputs.v, inputs.plan, inputs.weights, scale, inputs.extra
    )
    torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float64).view(out.shape))
    for x in extra_out:
        torch.testing.assert_close(x, torch.tensor(expected_extra, dtype=torch.float64).view(x.shape))


@on_triton_in_ci
@on_each_isa
@pytest.mark.parametrize("case", (*CASES, *LONG_CASES), ids=lambda case: case.name)
@by_dtype
@by_backend
def test_forward_and_backward(case, dtype, backend, monkeypatch):
    """Against the reference in fp64; honest is that with all arithmetic in dtype."""
    inputs = case.tensors(dtype)
    douts = [torch.randn_like(x, dtype=torch.float64).to(dtype) for x in by_reference(inputs)]
    got = with_gradients(lambda x: run(x, backend), inputs, douts)
    truth = with_gradients(by_reference, inputs.mapped(torch.Tensor.double), [x.double() for x in douts])
    monkeypatch.setattr(reference, "compute_dtype", lambda dtype: dtype)
    honest = with_gradients(by_reference, inputs, douts)
    for name, g, t, h in zip(names(inputs), got, truth, honest, strict=True):
        assert g.dtype == (torch.float32 if name == "dweights" else dtype), name
        assert g.is_contiguous(), name
        assert_as_good_as(g, t, h, name)


@on_triton_in_ci
@requires_dtype(torch.float64)
@by_case
@by_backend
def test_in_double_precision_it_is_the_reference(case, backend):
    inputs = case.tensors(torch.float64)
    douts = [torch.randn_like(x) for x in by_reference(inputs)]
    got = with_gradients(lambda x: run(x, backend), inputs, douts)
    want = with_gradients(by_reference, inputs, douts)
    for name, x, y in zip(names(inputs), got, want, strict=True):
        torch.testing.assert_close(x, y, msg=lambda text, name=name: f"{name}: {text}")


SMALL = [case for case in CASES if case.name in ("ragged_extra", "by_hand", "gqa", "two_extra_tokens")]


@requires_dtype(torch.float64)
@by_backend
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_gradcheck(case, backend):
    inputs = case.tensors(torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(
        lambda *tensors: tuple(run(inputs.replaced(tensors), backend)), inputs.tensors(), fast_mode=True
    )


@pytest.mark.opcheck
@on_triton_in_ci
@by_case
@by_backend
@pytest.mark.parametrize("requires_grad", (False, True))
def test_opcheck(case, backend, requires_grad, every_trace):
    inputs = case.tensors(torch.float32, requires_grad)
    args = inputs.op_args(backend)
    opcheck(ops.chunked_attention, args, every_trace)
    if requires_grad:
        return
    out, extra_out = ops.chunked_attention(*args)
    for dextra_out in (torch.randn_like(extra_out), None) if inputs.extra is not None else (None,):
        backward_args = (torch.randn_like(out), dextra_out, *args[:-1], out, backend)
        opcheck(ops.chunked_attention_backward, backward_args, every_trace)


@by_backend
@pytest.mark.parametrize("weights", ("uniform", "triangular", "hann", "crop"))
def test_it_is_split_attention_and_merge(weights, backend):
    plan = plan_chunks([61, 5], 24, 7)
    q, k, v = (torch.randn(66, 3, 8, requires_grad=True) for _ in range(3))
    got = lckernels.chunked_attention(q, k, v, plan, weights, backend=backend)
    chunks = [lckernels.overlap_split(x.flatten(1), plan).unflatten(2, (3, 8)) for x in (q, k, v)]
    inside = lckernels.overlap_split(torch.ones(66, 1), plan)[:, :, 0] > 0
    attended = lckernels.windowed_attention(*chunks, layout=Layout(kv_mask=inside), backend="eager")
    want = lckernels.overlap_merge(attended.flatten(2), plan, weights).unflatten(1, (3, 8))
    torch.testing.assert_close(got, want)
    dout = torch.randn_like(got)
    for x, y in zip(*(torch.autograd.grad(out, (q, k, v), dout) for out in (got, want)), strict=True):
        torch.testing.assert_close(x, y)


@by_backend
def test_one_chunk_is_full_attention(backend):
    plan = plan_chunks([50], 64, 16)
    q, k, v = torch.randn(50, 4, 8), torch.randn(50, 2, 8), torch.randn(50, 2, 8)
    got = lckernels.chunked_attention(q, k, v, plan, backend=backend)
    want = lckernels.windowed_attention(q[None], k[None], v[None], backend="eager")
    torch.testing.assert_close(got, want[0])


@by_backend
def test_documents_do_not_mix(backend):
    lengths = [30, 3, 17]
    q, k, v = (torch.randn(50, 2, 8) for _ in range(3))
    got = lckernels.chunked_attention(q, k, v, plan_chunks(lengths, 16, 6), backend=backend)
    for out, *parts in zip(*(x.split(lengths) for x in (got, q, k, v)), strict=True):
        alone = lckernels.chunked_attention(*parts, plan_chunks([len(out)], 16, 6), backend=backend)
        torch.testing.assert_close(out, alone)


@by_backend
def test_strides(backend):
    plan = plan_chunks([50], 16, 6)
    packed = torch.randn(50, 3, 4, 8)
    views = packed.unbind(1)
    assert_same(views, [x.contiguous() for x in views], plan, backend)
    across = [torch.randn(50, 8, 4).transpose(1, 2) for _ in range(3)]
    assert_same(across, [x.contiguous() for x in across], plan, backend)
    heads_first = [torch.randn(4, 50, 8).transpose(0, 1) for _ in range(3)]
    assert_same(heads_first, [x.contiguous() for x in heads_first], plan, backend)
    expanded = [torch.randn(50, 1, 8).expand(50, 4, 8) for _ in range(3)]
    assert_same(expanded, [x.contiguous() for x in expanded], plan, backend)


def assert_same(views, copies, plan, backend):
    """The same results and gradients for views as for their copies; extra tokens and weights strided too."""
    wide = torch.rand(plan.num_chunks, 40) + 0.5
    table = wide[:, 3:35:2]
    sizes = (plan.num_chunks, 4, 2, 8)
    extra = [torch.randn(sizes).transpose(1, 2) for _ in range(3)]
    results = []
    for tensors, own in ((views, extra), (copies, [x.contiguous() for x in extra])):
        weights = table if tensors is views else table.contiguous()
        inputs = ChunkedInputs(*tensors, ExtraTokens(*own), weights, plan)
        inputs = inputs.mapped(lambda x: x.detach().requires_grad_())
        out, extra_out = run(inputs, backend)
        ones = torch.ones(()).expand(out.shape)
        grads = torch.autograd.grad(
            [out, extra_out], inputs.tensors(), [ones, ones[:1, :1, :1].expand_as(extra_out)]
        )
        results.append([out, extra_out, *grads])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y)
        assert x.is_contiguous()
