"""The Triton kernels on a GPU: streams, CUDA graphs, bf16 autocast, no synchronization."""

from collections.abc import Callable
from functools import cache

import pytest
import torch

import lckernels
from lckernels import Layout, Plan, Score, plan_chunks

pytestmark = pytest.mark.gpu


def attention_inputs(dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    """q, k, v; k and v have fewer heads."""
    return [torch.randn(2, 200, heads, 64, device="cuda", dtype=dtype) for heads in (8, 2, 2)]


@cache
def layout(device: str = "cuda") -> Layout:
    return Layout(kv_end=torch.tensor([200, 150], device=device), sink_tokens=3)


@cache
def plan() -> Plan:
    """On the device: a graph must not copy it there."""
    return plan_chunks(190, 64, 16).to("cuda")


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return lckernels.windowed_attention(q, k, v, window_size=(40, 0), layout=layout(), backend="triton")


def merge(chunks: torch.Tensor) -> torch.Tensor:
    return lckernels.overlap_merge(chunks, plan(), backend="triton")


def attend_in_chunks(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return lckernels.chunked_attention(q, k, v, plan(), backend="triton")


CALLS: dict[str, tuple[Callable, Callable[[], list[torch.Tensor]]]] = {
    "windowed_attention": (attend, attention_inputs),
    "overlap_merge": (merge, lambda: [torch.randn(plan().num_chunks, 64, 96, device="cuda")]),
    "chunked_attention": (
        attend_in_chunks,
        lambda: [torch.randn(190, 4, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3)],
    ),
}
by_call = pytest.mark.parametrize("name", CALLS)


def prepared(name: str) -> tuple[Callable, list[torch.Tensor]]:
    """The call and its inputs, after one run: compiled, the plan on the device."""
    call, make = CALLS[name]
    inputs = make()
    call(*inputs)
    torch.cuda.synchronize()
    return call, inputs


@by_call
def test_a_graph_replays_it_on_new_values(name):
    call, inputs = prepared(name)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(*inputs)
    for x in inputs:
        x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(out, call(*inputs))


@by_call
def test_it_runs_on_the_current_stream(name):
    call, inputs = prepared(name)
    want = call(*inputs)
    stream = torch.cuda.Stream()
    scratch = [torch.full_like(x, torch.nan) for x in inputs]
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # another stream would read the NaN
        for x, y in zip(scratch, inputs, strict=True):
            x.copy_(y)
        got = call(*scratch)
    stream.synchronize()
    assert torch.equal(got, want)


def test_no_call_synchronizes():
    inputs = [x.requires_grad_() for x in attention_inputs()]
    score = Score(sink_logits=torch.zeros(8, device="cuda"))

    def step() -> None:
        options = {"window_size": (40, 0), "layout": layout(), "score": score, "backend": "triton"}
        lckernels.windowed_attention(*inputs, **options).sum().backward()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_autocast_to_bf16():
    inputs = attention_inputs(torch.float32)
    want = attend(*(x.bfloat16() for x in inputs))
    with torch.autocast("cuda", torch.bfloat16):
        got = attend(*inputs)
    assert got.dtype == torch.bfloat16 and torch.equal(got, want)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="requires two GPUs")
def test_it_runs_on_the_device_of_its_tensors():
    inputs = attention_inputs()
    want = attend(*inputs)
    there = [x.to("cuda:1") for x in inputs]
    options = {"window_size": (40, 0), "layout": layout("cuda:1"), "backend": "triton"}
    got = lckernels.windowed_attention(*there, **options)
    assert got.device == there[0].device and torch.equal(got.cpu(), want.cpu())
