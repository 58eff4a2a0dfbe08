"""chunked_attention against the composition of overlap_split, SDPA per chunk and overlap_merge."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases.attention import ChunkedCase
from bench.harness.check import Tensors, check, truth_dtype
from bench.harness.comparison import OWN, Budget, Subject, chosen_backend
from bench.harness.rows import Row, dtype_name
from bench.peers.attention import Attention
from bench.suites.attention_comparison import timed_rows
from bench.suites.verified import VerifiedCall, run_once
from lckernels import chunked_attention, overlap_merge, overlap_split, reference

COMPOSED = "split_sdpa_merge"


def own_attention(case: ChunkedCase) -> Attention:
    """The public op."""
    return lambda q, k, v: chunked_attention(q, k, v, case.plan, case.weights)


def composed(case: ChunkedCase, ops: Any = None) -> Attention:
    """The definition: split, attention in each chunk, merge. `ops` has overlap_split and overlap_merge."""
    split, merge = (overlap_split, overlap_merge) if ops is None else (ops.overlap_split, ops.overlap_merge)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        by_chunk = [
            split(x.flatten(1), case.plan).unflatten(2, x.shape[1:]).transpose(1, 2) for x in (q, k, v)
        ]
        grouped = case.num_heads != case.num_kv_heads
        out = F.scaled_dot_product_attention(*by_chunk, enable_gqa=grouped)
        return merge(out.transpose(1, 2).flatten(2), case.plan, case.weights).unflatten(1, q.shape[1:])

    return attend


def make_inputs(case: ChunkedCase) -> Tensors:
    """q, k, v and dout as (total_len, heads, head_dim), normally distributed."""
    generator = torch.Generator().manual_seed(0)
    heads = (case.num_heads, case.num_kv_heads, case.num_kv_heads, case.num_heads)
    shapes = [(case.total_len, h, case.head_dim) for h in heads]
    return tuple(torch.randn(shape, generator=generator).to(case.dtype) for shape in shapes)


def truth(case: ChunkedCase, direction: str, inputs: Tensors) -> Tensors:
    """The composition of the references in higher precision: (out,), or (dq, dk, dv)."""
    given = tuple(x.to(truth_dtype(case.dtype)) for x in inputs)
    return run_once(composed(case, reference), direction, given)[0]


def compare(benchmark: Any, case: ChunkedCase, direction: str, budget: Budget) -> list[Row]:
    """The rows of one case. Raises AssertionError if a result is wrong."""
    inputs = make_inputs(case)
    backend = chosen_backend("chunked_attention", *inputs[:3])
    want, baseline = truth(case, direction, inputs), None
    providers = {}
    for name, attend in ((COMPOSED, composed(case)), (OWN, own_attention(case))):
        results, extra_bytes, _ = run_once(attend, direction, inputs)
        baseline = results if baseline is None else baseline
        checked = check(name, results, want, baseline)
        providers[name] = VerifiedCall.of(attend, direction, inputs, checked, extra_bytes)
    subject = Subject(
        suite="chunked_attention",
        op="chunked_attention",
        direction=direction,
        shape=case.shape(),
        dtype=dtype_name(case.dtype),
        work=case.flops(direction),
        unit="GFLOP/s",
        backend=backend,
    )
    return timed_rows(benchmark, subject, providers, {}, budget, case.dtype)
