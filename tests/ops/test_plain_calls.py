"""A call of ordinary tensors runs without torch's dispatcher; whatever must see the op still sees it."""

from contextlib import nullcontext
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers.backends import compiled
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import lckernels
from lckernels import Layout, Score, arguments, functional, plan_chunks
from lckernels.backends import registry
from lckernels.ops import attention, registration

PLAN = plan_chunks([20], 8, 2)


def attend(x):
    return lckernels.windowed_attention(x, x, x, window_size=(3, 0))


def merge_states(x):
    lse = x[..., 0].transpose(1, 2).contiguous()
    return lckernels.merge_attention_states([x, 2 * x], [lse, lse + 1])[0]


# The op's name -> a call of it, and the shape of the tensor that the call takes.
CALLS = {
    "windowed_attention": (attend, (1, 6, 2, 8)),
    "overlap_merge": (lambda x: lckernels.overlap_merge(x, PLAN), (PLAN.num_chunks, 8, 5)),
    "overlap_split": (lambda x: lckernels.overlap_split(x, PLAN), (20, 5)),
    "chunked_attention": (lambda x: lckernels.chunked_attention(x, x, x, PLAN), (20, 2, 8)),
    "merge_attention_states": (merge_states, (1, 6, 2, 8)),
}
each_op = pytest.mark.parametrize("name", CALLS)


def call_and_input(name, requires_grad=False):
    call, shape = CALLS[name]
    return call, torch.randn(shape, requires_grad=requires_grad)


def op_of(name):
    return getattr(torch.ops.lckernels, name).default


class DispatchMode(TorchDispatchMode):
    """Stores the ops that reach it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class FunctionMode(TorchFunctionMode):
    """Stores the functions that reach it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Logged(torch.Tensor):
    """A wrapper of a tensor, which stores the ops that reach it."""

    seen: ClassVar[list] = []

    @staticmethod
    def __new__(cls, x):
        return torch.Tensor._make_wrapper_subclass(
            cls, x.shape, strides=x.stride(), dtype=x.dtype, device=x.device
        )

    def __init__(self, x):
        self.x = x

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(func)
        args, kwargs = torch.utils._pytree.tree_map_only(cls, lambda y: y.x, (args, kwargs or {}))
        return func(*args, **kwargs)


@each_op
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_missing_private_name_of_torch_sends_calls_through_the_dispatcher(name, requires_grad, monkeypatch):
    call, x = call_and_input(name, requires_grad)

    def run():
        out = call(x)
        return out.detach(), *(torch.autograd.grad(out.square().sum(), x) if requires_grad else ())

    assert registration.is_plain((x,))
    got = run()
    monkeypatch.setattr(registration, "_traced", registration._state("_no_such_name"))
    assert not registration.is_plain((x,))
    for one, other in zip(got, run(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@each_op
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_dispatch_mode_sees_the_op(name, requires_grad):
    call, x = call_and_input(name, requires_grad)
    with DispatchMode() as mode:
        out = call(x)
        if requires_grad:
            out.sum().backward()
    assert op_of(name) in mode.seen
    assert (op_of(f"{name}_backward") in mode.seen) == requires_grad


@each_op
def test_a_function_mode_sees_the_op(name):
    call, x = call_and_input(name)
    with FunctionMode() as mode:
        call(x)
    assert op_of(name) in mode.seen


@each_op
def test_a_tensor_subclass_sees_the_op(name):
    call, x = call_and_input(name)
    want = call(x)
    Logged.seen.clear()
    got = call(Logged(x))
    assert op_of(name) in Logged.seen
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("option", ["kv_mask", "sink_logits"])
def test_a_tensor_subclass_among_the_options_sees_the_op(option):
    q = torch.randn(1, 6, 2, 8)
    options = {
        "kv_mask": {"layout": Layout(kv_mask=Logged(torch.ones(1, 6, dtype=torch.bool)))},
        "sink_logits": {"score": Score(sink_logits=Logged(torch.zeros(2)))},
    }
    Logged.seen.clear()
    lckernels.windowed_attention(q, q, q, **options[option])
    assert op_of("windowed_attention") in Logged.seen


@each_op
def test_a_profiler_sees_the_op(name):
    call, x = call_and_input(name)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call(x)
    assert f"lckernels::{name}" in {event.key for event in profile.key_averages()}


@each_op
def test_a_trace_has_the_op(name):
    call, x = call_and_input(name)
    graph = torch.fx.experimental.proxy_tensor.make_fx(call)(x).graph
    assert op_of(name) in {node.target for node in graph.nodes}
    graph = torch.jit.trace(call, x, check_trace=False).graph
    assert f"lckernels::{name}" in {node.kind() for node in graph.nodes()}


@each_op
def test_fake_tensors_and_meta_tensors(name):
    call, x = call_and_input(name)
    want = call(x)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = call(mode.from_tensor(x))
    assert isinstance(fake, torch._subclasses.FakeTensor) and fake.shape == want.shape


def test_meta_tensors_have_the_results_shape():
    x = torch.randn(1, 6, 2, 8, device="meta")
    assert attend(x).shape == x.shape


def test_a_tensor_with_the_negative_bit():
    q, _ = torch.randn(2, 1, 6, 2, 8)
    negative = torch.complex(torch.zeros_like(q), -q).conj().imag
    assert negative.is_neg()
    torch.testing.assert_close(attend(negative), attend(q.clone()), rtol=0, atol=0)


def test_vmap_is_a_loop():
    x = torch.randn(3, 1, 6, 2, 8)
    want = torch.stack([attend(row) for row in x])
    torch.testing.assert_close(torch.func.vmap(attend)(x), want, rtol=0, atol=0)


@each_op
def test_a_gradient_of_torch_func_raises(name):
    call, x = call_and_input(name)
    with pytest.raises(NotImplementedError, match=f"lckernels.{name}: got a transform of torch.func"):
        torch.func.grad(lambda y: call(y).sum())(x)


def test_autocast_casts():
    x = torch.randn(1, 6, 2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert attend(x).dtype == torch.bfloat16


@each_op
def test_hooks_of_saved_tensors_are_called(name):
    call, x = call_and_input(name, requires_grad=True)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda y: packed.append(y) or y, lambda y: y):
        call(x)
    assert packed


def test_a_parameter_among_the_options_gets_its_gradient():
    q, sinks = torch.randn(1, 6, 2, 8), nn.Parameter(torch.zeros(2))
    assert registration.is_plain((q, sinks))
    lckernels.windowed_attention(q, q, q, score=Score(sink_logits=sinks)).sum().backward()
    assert sinks.grad.abs().sum() > 0


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, nullcontext])
def test_results_require_gradients_like_any_op(context):
    x = torch.randn(1, 6, 2, 8, requires_grad=True)
    with context():
        out, lse = lckernels.windowed_attention(x, x, x, return_lse=True)
    wanted = context is nullcontext
    assert out.requires_grad == lse.requires_grad == wanted
    assert out.is_inference() == (context is torch.inference_mode)


@each_op
def test_below_autograd_results_require_no_gradient(name):
    """Within the guard that autograd kernels of other libraries set, which leaves grad mode as it is."""
    call, x = call_and_input(name, requires_grad=True)
    with torch._C._AutoDispatchBelowAutograd():
        out = call(x)
    assert not out.requires_grad
    torch.testing.assert_close(out, call(x.detach()), rtol=0, atol=0)


WINDOW_CALLS = {
    "no options": {},
    "causal": {"window_size": (-1, 0)},
    "an offset": {"window_size": (2, 1), "layout": Layout(offset=3)},
    "a default layout and a scale": {"layout": Layout(), "softmax_scale": 0.3},
}
SAME_CALLS = {
    "a list": {"window_size": [2, 1]},
    "integers of numpy": {"window_size": (np.int64(2), np.int32(1))},
    "an integer as scale": {"window_size": (2, 1), "softmax_scale": 1},
    "a score": {"window_size": (2, 1), "score": Score()},
    "a backend": {"window_size": (2, 1), "backend": "cpu"},
}


def short_and_whole(monkeypatch, options, requires_grad):
    """Results and gradients of the short way and of the way through all checks; how often the checks ran."""
    checks = []
    check = functional.check_attention
    monkeypatch.setattr(functional, "check_attention", lambda *args: checks.append(args) or check(*args))
    torch.manual_seed(0)
    inputs = [torch.randn(2, n, h, 8, requires_grad=requires_grad) for n, h in ((5, 4), (7, 2), (7, 2))]

    def run():
        out, lse = lckernels.windowed_attention(*inputs, return_lse=True, **options)
        total = out.square().sum() + lse.sum()
        return out, lse, *(torch.autograd.grad(total, inputs) if requires_grad else ())

    short, num_checks = run(), len(checks)
    monkeypatch.setattr(functional, "has_offset_only", lambda layout: False)
    return short, run(), num_checks


@compiled
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("name", WINDOW_CALLS)
def test_a_call_with_a_window_alone_is_checked_in_cpp(name, requires_grad, monkeypatch):
    short, whole, num_checks = short_and_whole(monkeypatch, WINDOW_CALLS[name], requires_grad)
    assert num_checks == 0
    for one, other in zip(short, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@compiled
@pytest.mark.parametrize("name", SAME_CALLS)
def test_other_calls_pass_the_checks(name, monkeypatch):
    short, whole, num_checks = short_and_whole(monkeypatch, SAME_CALLS[name], True)
    assert num_checks == 1
    for one, other in zip(short, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@compiled
def test_heads_first_has_the_same_results():
    num_keys = arguments.MAX_MODEL_HEADS + 7  # in the place where the other order has the heads
    q, k, v = (torch.randn(2, n, h, 8) for n, h in ((5, 4), (num_keys, 2), (num_keys, 2)))
    want = attention.attend_window(q, k, v, (2, 1), None, None)
    by_head = [x.transpose(1, 2) for x in (q, k, v)]
    for inputs in (by_head, [x.contiguous() for x in by_head]):
        got = attention.attend_window(*inputs, (2, 1), None, None, heads_first=True)
        for one, other in zip(got, want, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    inputs = [x.requires_grad_() for x in by_head]
    assert attention.attend_window(*inputs, (2, 1), None, None, heads_first=True) is None


@compiled
@pytest.mark.parametrize("shape", [(2, 2, 6, 8), (2, 3, 7, 8), (1, 2, 7, 8), (2, 2, 7, 4)])
def test_heads_first_with_other_sizes_raises(shape):
    q, k, v = torch.zeros(2, 4, 5, 8), torch.zeros(2, 2, 7, 8), torch.zeros(shape)
    forward = registry.window_forward()
    tensors = (q, v, k) if shape[-1] != 8 else (q, k, v)
    with pytest.raises(RuntimeError, match="lckernels: k must have q's batch"):
        forward(*tensors, -1, -1, 0.5, None, True)


class Raised(RuntimeError):
    pass


def test_an_error_of_a_hook_is_raised_after_one_call():
    x, calls = torch.randn(1, 6, 2, 8, requires_grad=True), []

    def pack(y):
        calls.append(y)
        raise Raised

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda y: y), pytest.raises(Raised):
        attend(x)
    assert len(calls) == 1


@compiled
@pytest.mark.parametrize("heads_first", [False, True])
def test_a_tensor_that_does_not_fit_has_the_error_of_the_checks(heads_first):
    q, k, v = torch.zeros(2, 5, 4, 8), torch.zeros(2, 7, 2, 8), torch.zeros(2, 6, 2, 8)
    if heads_first:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    with pytest.raises(
        ValueError, match=r"v: got shape \(2, 6, 2, 8\); k has shape \(2, 7, 2, 8\)"
    ) as raised:
        attention.attend_window(q, k, v, (2, 1), None, None, heads_first=heads_first)
    assert raised.value.__cause__ is None and raised.value.__context__ is None


def test_an_lse_alone_has_a_gradient_without_a_loop_of_torch():
    """The gradient of out is one row of zeros: torch's threads are not there in a forked child."""
    q, k, v = torch.randn(3, 2, 6, 2, 8, dtype=torch.float64, requires_grad=True)
    lse = lckernels.windowed_attention(q, k, v, return_lse=True)[1]
    got = torch.autograd.grad(lse.sum(), (q, k), allow_unused=True)
    out, lse = lckernels.windowed_attention(q, k, v, return_lse=True)
    want = torch.autograd.grad(lse.sum() + 0 * out.sum(), (q, k))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


class Attention(nn.Module):
    def forward(self, q, k):
        return lckernels.windowed_attention(q, k, k, window_size=(2, 1))


def test_lengths_of_queries_and_keys_are_exported_apart():
    dims = [torch.export.Dim(name, min=1, max=500) for name in ("seqlen_q", "seqlen_k")]
    inputs = torch.randn(2, 5, 4, 8), torch.randn(2, 9, 4, 8)
    exported = torch.export.export(
        Attention(), inputs, dynamic_shapes=tuple({1: dim} for dim in dims)
    ).module()
    for seqlen_q, seqlen_k in ((3, 40), (9, 9), (12, 9)):
        q, k = torch.randn(2, seqlen_q, 4, 8), torch.randn(2, seqlen_k, 4, 8)
        torch.testing.assert_close(exported(q, k), Attention()(q, k), rtol=0, atol=0)


def test_one_graph_for_all_lengths():
    torch._dynamo.reset()
    graphs = []
    compiled = torch.compile(
        Attention(), dynamic=True, backend=lambda graph, _: graphs.append(graph) or graph
    )
    for seqlen_q, seqlen_k in ((3, 40), (9, 19), (12, 9), (8, 8)):
        compiled(torch.randn(2, seqlen_q, 4, 8), torch.randn(2, seqlen_k, 4, 8))
    assert len(graphs) == 1


def test_without_the_level_of_forward_mode_calls_pass_the_dispatcher(monkeypatch):
    x = torch.randn(1, 6, 2, 8)
    want = attend(x)
    monkeypatch.delattr(torch.autograd.forward_ad, "_current_level")
    assert registration.is_observed()
    torch.testing.assert_close(attend(x), want, rtol=0, atol=0)
