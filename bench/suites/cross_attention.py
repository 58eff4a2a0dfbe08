"""A step of a decoder's cross attention: one query against all states of an encoder, cached by head."""

import time
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from bench.cases.attention import AttentionCase
from bench.harness.check import Tensors, check
from bench.harness.comparison import OWN, Budget, chosen_backend
from bench.harness.memory import with_extra_bytes
from bench.harness.report.t5_goals import SUITE
from bench.harness.rows import Row
from bench.suites import attention
from bench.suites.attention_comparison import timed_rows
from bench.suites.verified import VerifiedCall
from lckernels import windowed_attention


def cross_rows(benchmark: Any, case: AttentionCase, budget: Budget) -> list[Row]:
    """Our row and that of SDPA; keys and values are contiguous (batch, heads, seqlen, head_dim).

    Raises:
        AssertionError: A result is wrong.
    """
    inputs = attention.make_inputs(case)
    want = attention.truth(case, "forward", inputs)
    baseline = attention.baseline(case, "forward", inputs)
    backend = chosen_backend("windowed_attention", *inputs[:3], score_bytes=case.score_bytes)
    cached = attention.by_head(inputs)[:3]
    providers = {}
    for name, attend in ((OWN, _own), ("sdpa", _sdpa)):
        call = partial(attend, *cached)
        results, extra_bytes = with_extra_bytes(call)
        checked = check(name, results, want, baseline)
        begin = time.perf_counter()
        call()
        providers[name] = VerifiedCall(call, checked, time.perf_counter() - begin, extra_bytes)
    subject = attention.subject_of(SUITE, "decode", case, backend)
    return timed_rows(benchmark, subject, providers, {}, budget, case.dtype)


def _own(q: Tensor, k: Tensor, v: Tensor) -> Tensors:
    return (windowed_attention(*(x.transpose(1, 2) for x in (q, k, v))),)


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensors:
    return (F.scaled_dot_product_attention(q, k, v).transpose(1, 2),)
