"""windowed_attention as a subject: inputs, truth and calls."""

import dataclasses

import torch
from torch import Tensor

from bench.cases import AttentionCase, dtype_name
from bench.check import Tensors, truth_dtype
from bench.contest import Subject
from bench.peers import Attend, attention_by_sdpa_mask
from bench.timing import Call
from lckernels import reference, windowed_attention


def own_attend(case: AttentionCase, backend: str | None = None) -> Attend:
    """The public op."""
    return lambda q, k, v: windowed_attention(q, k, v, window_size=case.window_size, backend=backend)


def make_inputs(case: AttentionCase) -> Tensors:
    """q, k, v and dout as (batch, seqlen, heads, head_dim), normally distributed."""
    generator = torch.Generator().manual_seed(0)
    heads = (case.num_heads, case.num_kv_heads, case.num_kv_heads, case.num_heads)
    shapes = [(case.batch, case.seqlen, h, case.head_dim) for h in heads]
    return tuple(torch.randn(shape, generator=generator).to(case.dtype) for shape in shapes)


def by_head(tensors: Tensors) -> Tensors:
    """Between (batch, seqlen, heads, head_dim) and SDPA's (batch, heads, seqlen, head_dim), copied."""
    return tuple(x.transpose(1, 2).contiguous() for x in tensors)


def truth(case: AttentionCase, direction: str, inputs: Tensors) -> Tensors:
    """The reference in higher precision, one key head at a time: (out,), or (dq, dk, dv)."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return reference.windowed_attention(q, k, v, window_size=case.window_size)[0]

    return per_key_head(case, attend, direction, tuple(x.to(truth_dtype(case.dtype)) for x in inputs))


def truth_without_scores(case: AttentionCase, direction: str, inputs: Tensors) -> Tensors:
    """The same by SDPA with a mask in fp32, for shapes whose scores do not fit."""
    one = dataclasses.replace(case, num_heads=case.num_heads // case.num_kv_heads, num_kv_heads=1)
    masked = attention_by_sdpa_mask(one, inputs[0].device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return masked(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)

    return per_key_head(case, attend, direction, tuple(x.float() for x in inputs))


def per_key_head(case: AttentionCase, attend: Attend, direction: str, inputs: Tensors) -> Tensors:
    """Results of each key head and its queries, joined."""
    group = case.num_heads // case.num_kv_heads
    results = []
    for h in range(case.num_kv_heads):
        of_queries, of_keys = slice(h * group, (h + 1) * group), slice(h, h + 1)
        slices = (of_queries, of_keys, of_keys, of_queries)
        part = tuple(x[:, :, heads] for x, heads in zip(inputs, slices, strict=True))
        results.append(as_call(attend, direction, part)())
    return tuple(torch.cat(parts, dim=2) for parts in zip(*results, strict=True))


def as_call(attend: Attend, direction: str, inputs: Tensors) -> Call:
    """The forward, or only the backward of a forward done once here; always a tuple of results."""
    q, k, v, dout = inputs
    if direction == "forward":
        return lambda: (attend(q, k, v),)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = attend(*leaves)
    return lambda: torch.autograd.grad(out, leaves, dout, retain_graph=True)


def subject_of(suite: str, direction: str, case: AttentionCase, backend: str, device: str = "cpu") -> Subject:
    """What the rows of one case have in common; its work is the FLOPs of the visible pairs."""
    return Subject(
        suite=suite,
        op="windowed_attention",
        direction=direction,
        shape=case.shape(),
        dtype=dtype_name(case.dtype),
        work=case.flops(direction),
        unit="GFLOP/s",
        backend=backend,
        device=device,
    )
