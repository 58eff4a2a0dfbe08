"""Who takes part in a contest: providers are checked, and their memory measured, before timing."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from bench.cases.attention import BACKWARD_FLOPS, AttentionCase
from bench.harness.check import Checked, Tensors
from bench.harness.memory import with_extra_bytes
from bench.harness.timing import Call
from bench.peers.attention import (
    Attend,
    Build,
    Peer,
    eager,
    sdpa_causal,
    sdpa_causal_no_window,
    sdpa_mask,
    sdpa_slice,
)
from bench.peers.libraries import flex, local_attention
from bench.peers.limits import TooSlow, Unsupported, refuse_dense_pass
from bench.peers.onnx_attention import onnxruntime
from bench.suites import attention
from bench.suites.expected import Exam

T = TypeVar("T")

_LONG = (sdpa_mask, sdpa_causal, sdpa_causal_no_window, flex, onnxruntime, local_attention, eager)
PEERS: dict[str, tuple[Build, ...]] = {
    "forward": _LONG,
    "backward": _LONG,
    "decode": (sdpa_slice, sdpa_mask, flex, onnxruntime, eager),
}


# Peers that compute every pair, and the least share of the products that they get away with.
DENSE: dict[Build, float] = {
    eager: 1.0,
    sdpa_mask: 1.0,
    onnxruntime: 1.0,
    sdpa_causal: 0.5,
    sdpa_causal_no_window: 0.5,
}


_tried_in_vain: dict[tuple[Build, str, float], list[AttentionCase]] = {}  # by peer, direction and limit


def refuse_if_slow(build: Build, case: AttentionCase, direction: str, limit: float) -> None:
    """Raises TooSlow for a peer that surely takes more than `limit` seconds, or did on a smaller case."""
    passes = 1 + BACKWARD_FLOPS if direction == "backward" else 1
    refuse_dense_pass(4 * case.score_products * DENSE.get(build, 0.0) * passes, limit)
    for smaller in _tried_in_vain.get((build, direction, limit), []):
        if smaller.no_larger_than(case):
            raise TooSlow(f"more than {limit:g} s a pass on {smaller.label}")


def builders(case: AttentionCase, direction: str) -> list[Build]:
    """Who is asked: of the two that use is_causal the one that fits the window."""
    misfit = sdpa_causal_no_window if case.window_size == (-1, 0) else sdpa_causal
    return [build for build in PEERS[direction] if build is not misfit]


@dataclass(frozen=True)
class Entrant:
    """A provider whose result was right."""

    call: Call
    check: Checked
    seconds: float  # of a warm call
    extra_bytes: int | None
    note: str = ""

    @classmethod
    def of(
        cls,
        attend: Attend,
        direction: str,
        inputs: Tensors,
        checked: Checked,
        extra_bytes: int | None,
        note: str = "",
    ) -> "Entrant":
        """Runs the call once for its time."""
        call = attention.as_call(attend, direction, inputs)
        begin = time.perf_counter()
        call()
        return cls(call, checked, time.perf_counter() - begin, extra_bytes, note)


def run_once(attend: Attend, direction: str, inputs: Tensors) -> tuple[Tensors, int | None, float]:
    """(out,) or (dq, dk, dv), the peak memory above inputs and results, and the seconds.

    A backward's memory and seconds hold its forward.
    """
    begin = time.perf_counter()
    made, extra_bytes = with_extra_bytes(attention.whole_pass(attend, direction, inputs))
    seconds = time.perf_counter() - begin
    return made[:3] if direction == "backward" else made, extra_bytes, seconds


def enter(
    name: str, peer: Peer, case: AttentionCase, direction: str, inputs: Tensors, exam: Exam, limit: float
) -> Entrant:
    """Checks the provider and makes it an entrant.

    inputs are in the peer's layout. Raises AssertionError for a wrong result, TooSlow above `limit` seconds.
    """
    results, extra_bytes, seconds = run_once(peer.attend, direction, inputs)
    checked = exam.check(name, tuple(x.transpose(1, 2) for x in results) if peer.by_head else results)
    if seconds > limit:
        raise TooSlow(f"more than {limit:g} s a pass")
    del results
    return Entrant.of(peer.attend, direction, inputs, checked, extra_bytes, peer.note)


def _enter(
    build: Build, case: AttentionCase, direction: str, inputs: Tensors, exam: Exam, limit: float
) -> Entrant:
    """Raises AssertionError for a wrong result, Unsupported where the peer takes no part."""
    refuse_if_slow(build, case, direction, limit)
    peer = build(case, direction, "cpu")
    given = attention.by_head(inputs) if peer.by_head else inputs
    other = Exam(peer.computes, direction, inputs, every_head=False) if peer.computes else exam
    try:
        return enter(build.__name__, peer, case, direction, given, other, limit)
    except TooSlow:
        _tried_in_vain.setdefault((build, direction, limit), []).append(case)
        raise


def admitted(ways: Mapping[str, Callable[[], T]]) -> tuple[dict[str, T], dict[str, str]]:
    """Those that enter, and why the others do not: a wrong result is a reason too."""
    entrants: dict[str, T] = {}
    left_out: dict[str, str] = {}
    for name, way in ways.items():
        try:
            entrants[name] = way()
        except (AssertionError, Unsupported) as reason:
            left_out[name] = str(reason)
        except Exception as error:  # a peer that breaks must not cost the others their rows
            first_line = str(error).strip().partition("\n")[0]
            left_out[name] = f"{type(error).__name__}: {first_line}"
    return entrants, left_out


def admit(
    case: AttentionCase, direction: str, inputs: Tensors, exam: Exam, limit: float
) -> tuple[dict[str, Entrant], dict[str, str]]:
    """The peers that can, and why the others do not take part."""
    return admitted(
        {
            build.__name__: partial(_enter, build, case, direction, inputs, exam, limit)
            for build in builders(case, direction)
        }
    )
