"""One case of windowed attention: all providers are checked, then timed in turns."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from bench.cases.attention import AttentionCase
from bench.harness import roofline
from bench.harness.comparison import OWN, Budget, Subject, chosen_backend, make_rows, time_with_peers
from bench.harness.rows import Row
from bench.peers.attention import Peer
from bench.suites import attention
from bench.suites.expected import Expected
from bench.suites.verified import VerifiedCall, verified_peers, verify


def compare(
    benchmark: Any,
    case: AttentionCase,
    direction: str,
    budget: Budget,
    log: Callable[[str], None] = print,
) -> list[Row]:
    """The rows of one case; `log` receives a line per peer that is left out, with the reason.

    Raises:
        AssertionError: Our own result is wrong.
        BackendError: No backend supports the case.
    """
    inputs = attention.make_inputs(case)
    backend = chosen_backend("windowed_attention", *inputs[:3], score_bytes=case.score_bytes)
    expected = Expected(case, direction, inputs)
    own = Peer(attention.own_attention(case), by_head=False)
    providers = {OWN: verify(OWN, own, case, direction, inputs, expected, float("inf"))}
    peers, left_out = verified_peers(case, direction, inputs, expected, budget.call_seconds)
    for name, reason in left_out.items():
        log(f"  {name} is left out: {reason}")
    providers |= peers
    subject = attention.subject_of("attention", direction, case, backend)
    return timed_rows(benchmark, subject, providers, left_out, budget, case.dtype)


def timed_rows(
    benchmark: Any,
    subject: Subject,
    providers: Mapping[str, VerifiedCall],
    left_out: Mapping[str, str],
    budget: Budget,
    dtype: torch.dtype,
) -> list[Row]:
    """Times the providers in turns with the probes of the machine's peak rates; returns a row of each."""
    calls = {name: one.call for name, one in providers.items()}
    if subject.unit == "GB/s":
        comparable, probes, rates = roofline.read_probe(int(subject.work)), {}, roofline.rates
    else:
        comparable, probes = (
            roofline.flop_probes(dtype, subject.work),
            roofline.amx_probe(dtype, subject.work),
        )
        rates = roofline.peaks
    probes = comparable | probes
    timings = time_with_peers(benchmark, calls, providers[OWN].seconds, budget, probes, primed=True)
    every = rates(list(probes), subject.work, timings)
    return make_rows(
        subject,
        timings,
        {name: one.check for name, one in providers.items()},
        every,
        tuple(every),
        comparable=tuple(comparable),
        extra_bytes={name: one.extra_bytes for name, one in providers.items()},
        notes={name: one.note for name, one in providers.items()},
        left_out=left_out,
    )
