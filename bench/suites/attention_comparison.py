"""One attention case, all providers: checked first, then timed in turns."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from bench.cases.attention import AttentionCase
from bench.harness import roofline
from bench.harness.comparison import OWN, Effort, Subject, chosen_backend, make_rows, time_with_peers
from bench.harness.rows import Row
from bench.peers.attention import Peer
from bench.suites import attention
from bench.suites.expected import Exam
from bench.suites.verified import Entrant, admit, enter


def contest(
    benchmark: Any,
    case: AttentionCase,
    direction: str,
    effort: Effort,
    tell: Callable[[str], None] = print,
) -> list[Row]:
    """The rows of one case; who takes no part is told with the reason, a wrong peer too.

    Raises AssertionError if our own result was wrong, BackendError if no backend serves the case.
    """
    inputs = attention.make_inputs(case)
    backend = chosen_backend("windowed_attention", *inputs[:3], score_bytes=case.score_bytes)
    exam = Exam(case, direction, inputs)
    own = Peer(attention.own_attend(case), by_head=False)
    entrants = {OWN: enter(OWN, own, case, direction, inputs, exam, float("inf"))}
    peers, left_out = admit(case, direction, inputs, exam, effort.call_seconds)
    for name, reason in left_out.items():
        tell(f"  {name} is left out: {reason}")
    entrants |= peers
    subject = attention.subject_of("attention", direction, case, backend)
    return timed_rows(benchmark, subject, entrants, left_out, effort, case.dtype)


def timed_rows(
    benchmark: Any,
    subject: Subject,
    entrants: Mapping[str, Entrant],
    left_out: Mapping[str, str],
    effort: Effort,
    dtype: torch.dtype,
) -> list[Row]:
    """Times the entrants in turns with the machine's ceilings and makes a row of each."""
    calls = {name: entrant.call for name, entrant in entrants.items()}
    if subject.unit == "GB/s":
        alike, probes, rates = roofline.read_probe(int(subject.work)), {}, roofline.rates
    else:
        alike, probes = roofline.flop_probes(dtype, subject.work), roofline.amx_probe(dtype, subject.work)
        rates = roofline.peaks
    probes = alike | probes
    timings = time_with_peers(benchmark, calls, entrants[OWN].seconds, effort, probes, primed=True)
    every = rates(list(probes), subject.work, timings)
    return make_rows(
        subject,
        timings,
        {name: entrant.check for name, entrant in entrants.items()},
        every,
        tuple(every),
        alike=tuple(alike),
        extra_bytes={name: entrant.extra_bytes for name, entrant in entrants.items()},
        notes={name: entrant.note for name, entrant in entrants.items()},
        left_out=left_out,
    )
