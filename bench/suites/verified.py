"""Providers of windowed attention: each is checked, and its memory measured, before it is timed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bench.cases.attention import BACKWARD_FLOPS, AttentionCase
from bench.harness.check import Checked, Tensors
from bench.harness.comparison import collect
from bench.harness.memory import with_extra_bytes
from bench.harness.timing import Call
from bench.peers.attention import (
    Attention,
    Build,
    Peer,
    eager,
    sdpa_causal,
    sdpa_causal_no_window,
    sdpa_mask,
    sdpa_slice,
)
from bench.peers.libraries import flex, local_attention
from bench.peers.limits import TooSlow, raise_if_dense_pass_is_slow
from bench.peers.onnx_attention import onnxruntime
from bench.suites import attention
from bench.suites.expected import Expected

_FULL_PASS = (sdpa_mask, sdpa_causal, sdpa_causal_no_window, flex, onnxruntime, local_attention, eager)
PEERS: dict[str, tuple[Build, ...]] = {
    "forward": _FULL_PASS,
    "backward": _FULL_PASS,
    "decode": (sdpa_slice, sdpa_mask, flex, onnxruntime, eager),
}

# Peers that compute every (query, key) pair, and the smallest share of the products that they compute.
DENSE: dict[Build, float] = {
    eager: 1.0,
    sdpa_mask: 1.0,
    onnxruntime: 1.0,
    sdpa_causal: 0.5,
    sdpa_causal_no_window: 0.5,
}
_too_slow: dict[tuple[Build, str, float], list[AttentionCase]] = {}  # by peer, direction and limit


def raise_if_slow(build: Build, case: AttentionCase, direction: str, limit: float) -> None:
    """Raises TooSlow if the peer needs more than `limit` seconds by its FLOPs, or needed them before.

    "Before": on a case in this process that is no larger.
    """
    passes = 1 + BACKWARD_FLOPS if direction == "backward" else 1
    raise_if_dense_pass_is_slow(4 * case.score_products * DENSE.get(build, 0.0) * passes, limit)
    for smaller in _too_slow.get((build, direction, limit), []):
        if smaller.no_larger_than(case):
            raise TooSlow(f"more than {limit:g} s a pass on {smaller.label}")


def builders(case: AttentionCase, direction: str) -> list[Build]:
    """The peers of a case: of the two that use is_causal, the one that fits the window."""
    misfit = sdpa_causal_no_window if case.window_size == (-1, 0) else sdpa_causal
    return [build for build in PEERS[direction] if build is not misfit]


@dataclass(frozen=True)
class VerifiedCall:
    """A call whose result passed its check.

    Attributes:
        call: What is timed.
        check: The result of the check.
        seconds: Of one warm call.
        extra_bytes: Peak memory above inputs and results; None where it cannot be measured.
        note: What the call computes, where that is not the op.
    """

    call: Call
    check: Checked
    seconds: float
    extra_bytes: int | None
    note: str = ""

    @classmethod
    def of(
        cls,
        attend: Attention,
        direction: str,
        inputs: Tensors,
        checked: Checked,
        extra_bytes: int | None,
        note: str = "",
    ) -> "VerifiedCall":
        """Runs the call once for its seconds."""
        call = attention.as_call(attend, direction, inputs)
        begin = time.perf_counter()
        call()
        return cls(call, checked, time.perf_counter() - begin, extra_bytes, note)


def run_once(attend: Attention, direction: str, inputs: Tensors) -> tuple[Tensors, int | None, float]:
    """(out,) or (dq, dk, dv), the peak memory above inputs and results, and the seconds.

    A backward's memory and seconds include its forward.
    """
    begin = time.perf_counter()
    made, extra_bytes = with_extra_bytes(attention.whole_pass(attend, direction, inputs))
    seconds = time.perf_counter() - begin
    return made[:3] if direction == "backward" else made, extra_bytes, seconds


def verify(
    name: str,
    peer: Peer,
    case: AttentionCase,
    direction: str,
    inputs: Tensors,
    expected: Expected,
    limit: float,
) -> VerifiedCall:
    """Checks a provider; `inputs` are in the peer's layout.

    Raises:
        AssertionError: The result is wrong.
        TooSlow: The call takes more than `limit` seconds.
    """
    results, extra_bytes, seconds = run_once(peer.attend, direction, inputs)
    checked = expected.check(name, tuple(x.transpose(1, 2) for x in results) if peer.by_head else results)
    if seconds > limit:
        raise TooSlow(f"more than {limit:g} s a pass")
    del results
    return VerifiedCall.of(peer.attend, direction, inputs, checked, extra_bytes, peer.note)


def _verify_peer(
    build: Build, case: AttentionCase, direction: str, inputs: Tensors, expected: Expected, limit: float
) -> VerifiedCall:
    """Builds and checks a peer. Raises AssertionError for a wrong result, Unsupported if it is left out."""
    raise_if_slow(build, case, direction, limit)
    peer = build(case, direction, "cpu")
    given = attention.by_head(inputs) if peer.by_head else inputs
    other = Expected(peer.computes, direction, inputs, every_head=False) if peer.computes else expected
    try:
        return verify(build.__name__, peer, case, direction, given, other, limit)
    except TooSlow:
        _too_slow.setdefault((build, direction, limit), []).append(case)
        raise


def verified_peers(
    case: AttentionCase, direction: str, inputs: Tensors, expected: Expected, limit: float
) -> tuple[dict[str, VerifiedCall], dict[str, str]]:
    """The peers that passed, and for the others the reason."""
    makers: dict[str, Callable[[], VerifiedCall]] = {
        build.__name__: partial(_verify_peer, build, case, direction, inputs, expected, limit)
        for build in builders(case, direction)
    }
    return collect(makers)
