"""One whole model: all ways to run it are checked, then timed in turns."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from bench.cases.models import ModelCase, flops, head_sizes
from bench.harness.check import Checked, Tensors, check, truth_dtype
from bench.harness.comparison import OWN, Budget, Subject, chosen_backend, collect
from bench.harness.memory import with_extra_bytes
from bench.harness.rows import Row, dtype_name
from bench.peers import model_attention
from bench.peers.limits import TooSlow
from bench.peers.models import PEERS, Build, ModelPeer, own, raise_if_dense
from bench.suites.attention_comparison import timed_rows
from bench.suites.verified import VerifiedCall


class ExpectedStates:
    """States with plain attention: `want` in higher precision, `baseline` in the model's dtype."""

    def __init__(self, model: nn.Module, ids: torch.Tensor, dtype: torch.dtype) -> None:
        self.model, self.ids, self.dtype = model, ids, truth_dtype(dtype)
        self.want: dict[str, Tensors] = {}
        self.baseline: dict[str, Tensors] = {}

    def check(self, name: str, attention: str, results: Tensors) -> Checked:
        """Compares with the model on the implementation `attention`. Raises AssertionError if it differs."""
        if attention not in self.want:
            plain = model_attention.with_attention(self.model, attention)
            self.baseline[attention] = model_attention.run(plain, self.ids)
            self.want[attention] = model_attention.run(model_attention.in_dtype(plain, self.dtype), self.ids)
        return check(name, results, self.want[attention], self.baseline[attention])


def verify(
    name: str, peer: ModelPeer, ids: torch.Tensor, expected: ExpectedStates, limit: float
) -> VerifiedCall:
    """Checks the peer, then measures memory and seconds of a warm call.

    Raises:
        AssertionError: The result is wrong.
        TooSlow: A warm call takes more than `limit` seconds, or the first more than twice that.
    """
    begin = time.perf_counter()
    results = model_attention.run(peer.model, ids)
    if time.perf_counter() - begin > 2 * limit:
        raise TooSlow(f"more than {limit:g} s a pass")
    checked = expected.check(name, peer.attention, results)
    del results
    begin = time.perf_counter()
    _, extra_bytes = with_extra_bytes(lambda: model_attention.run(peer.model, ids))
    seconds = time.perf_counter() - begin
    if seconds > limit:
        raise TooSlow(f"more than {limit:g} s a pass")
    call = partial(model_attention.run, peer.model, ids)
    return VerifiedCall(call, checked, seconds, extra_bytes, peer.note)


def verified_providers(
    model: nn.Module, case: ModelCase, ids: torch.Tensor, limit: float, stack: ExitStack
) -> tuple[dict[str, VerifiedCall], dict[str, str]]:
    """Our patched model and the peers that passed, and for the other peers the reason."""
    expected = ExpectedStates(model, ids, case.dtype)

    def make(name: str, build: Build) -> VerifiedCall:
        raise_if_dense(name, model, case, limit)
        return verify(name, build(model, case, stack), ids, expected, limit)

    ours = verify(OWN, own(model, case, stack), ids, expected, float("inf"))
    peers, left_out = collect({name: partial(make, name, build) for name, build in PEERS.items()})
    return {OWN: ours, **peers}, left_out


def subject_of(case: ModelCase, model: nn.Module, suite: str = "models") -> Subject:
    """The fields that all rows of one model share; `default` is transformers' own choice of attention."""
    heads, kv_heads, head_dim = head_sizes(model.config)
    sizes = ((1, case.seqlen, n, head_dim) for n in (heads, kv_heads))
    q, k = (torch.empty(size, dtype=case.dtype, device=model.device) for size in sizes)
    return Subject(
        suite=suite,
        op=case.family,
        direction="forward",
        shape={
            "seqlen": case.seqlen,
            "layers": case.layers,
            "window": model.config.sliding_window,
            "weights": "SmolLM2-135M" if case.real else "random",
            "default": model.config._attn_implementation,
        },
        dtype=dtype_name(case.dtype),
        work=flops(model, case.seqlen),
        unit="GFLOP/s",
        backend=chosen_backend("windowed_attention", q, k, k, score_bytes=4 * heads * case.seqlen**2),
        device=model.device.type,
    )


def compare(benchmark: Any, case: ModelCase, budget: Budget, log: Callable[[str], None] = print) -> list[Row]:
    """The rows of one model; `log` receives a line per peer that is left out, with the reason.

    Raises:
        AssertionError: Our own result is wrong.
        ModuleNotFoundError: SmolLM2 is not installed.
    """
    model, ids = model_attention.build(case)
    subject = subject_of(case, model)
    with ExitStack() as stack:
        providers, left_out = verified_providers(model, case, ids, budget.call_seconds, stack)
        for name, reason in left_out.items():
            log(f"  {name} is left out: {reason}")
        return timed_rows(benchmark, subject, providers, left_out, budget, case.dtype)
