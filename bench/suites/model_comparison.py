"""One whole model, all ways to run it: checked first, then timed in turns."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from bench.cases.models import ModelCase, flops, head_sizes
from bench.harness.check import Checked, Tensors, check, truth_dtype
from bench.harness.comparison import OWN, Effort, Subject, chosen_backend
from bench.harness.memory import with_extra_bytes
from bench.harness.rows import Row, dtype_name
from bench.peers import model_attention
from bench.peers.limits import TooSlow
from bench.peers.models import PEERS, Build, ModelPeer, own, refuse_if_dense
from bench.suites.attention_comparison import timed_rows
from bench.suites.verified import Entrant, admitted


class ModelExam:
    """The truth is the model in higher precision on plain attention; honest is that in the model's dtype."""

    def __init__(self, model: nn.Module, ids: torch.Tensor, dtype: torch.dtype) -> None:
        self.model, self.ids, self.dtype = model, ids, truth_dtype(dtype)
        self.want: dict[str, Tensors] = {}
        self.honest: dict[str, Tensors] = {}

    def check(self, name: str, attention: str, results: Tensors) -> Checked:
        """Raises AssertionError for a wrong result; `attention` is the one that it claims to compute."""
        if attention not in self.want:
            plain = model_attention.with_attention(self.model, attention)
            self.honest[attention] = model_attention.run(plain, self.ids)
            self.want[attention] = model_attention.run(model_attention.in_dtype(plain, self.dtype), self.ids)
        return check(name, results, self.want[attention], self.honest[attention])


def enter(name: str, peer: ModelPeer, ids: torch.Tensor, exam: ModelExam, limit: float) -> Entrant:
    """Checks the peer, then takes the memory and the seconds of a warm call.

    Raises AssertionError for a wrong result, TooSlow above `limit` seconds (a first call: above twice that).
    """
    begin = time.perf_counter()
    results = model_attention.run(peer.model, ids)
    if time.perf_counter() - begin > 2 * limit:
        raise TooSlow(f"more than {limit:g} s a pass")
    checked = exam.check(name, peer.attention, results)
    del results
    begin = time.perf_counter()
    _, extra_bytes = with_extra_bytes(lambda: model_attention.run(peer.model, ids))
    seconds = time.perf_counter() - begin
    if seconds > limit:
        raise TooSlow(f"more than {limit:g} s a pass")
    return Entrant(lambda: model_attention.run(peer.model, ids), checked, seconds, extra_bytes, peer.note)


def admit(
    model: nn.Module, case: ModelCase, ids: torch.Tensor, limit: float, stack: ExitStack
) -> tuple[dict[str, Entrant], dict[str, str]]:
    """Who takes part, and why the others do not; ours must be right."""
    exam = ModelExam(model, ids, case.dtype)

    def way(name: str, build: Build) -> Entrant:
        refuse_if_dense(name, model, case, limit)
        return enter(name, build(model, case, stack), ids, exam, limit)

    ours = enter(OWN, own(model, case, stack), ids, exam, float("inf"))
    peers, left_out = admitted({name: partial(way, name, build) for name, build in PEERS.items()})
    return {OWN: ours, **peers}, left_out


def subject_of(case: ModelCase, model: nn.Module, suite: str = "models") -> Subject:
    """What the rows of one model have in common; `default` is what transformers chooses for it."""
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


def contest(
    benchmark: Any, case: ModelCase, effort: Effort, tell: Callable[[str], None] = print
) -> list[Row]:
    """The rows of one model; who takes no part is told with the reason, a wrong peer too.

    Raises AssertionError if our own result was wrong, ModuleNotFoundError where SmolLM2 is missing.
    """
    model, ids = model_attention.build(case)
    subject = subject_of(case, model)
    with ExitStack() as stack:
        entrants, left_out = admit(model, case, ids, effort.call_seconds, stack)
        for name, reason in left_out.items():
            tell(f"  {name} is left out: {reason}")
        return timed_rows(benchmark, subject, entrants, left_out, effort, case.dtype)
