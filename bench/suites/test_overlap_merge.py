"""overlap_merge and overlap_split, forward and backward, against torch's routes and the machine's copies."""

import pytest

from bench.cases.overlap import OverlapCase
from bench.harness import roofline, rows
from bench.harness.check import Checked, check
from bench.harness.comparison import (
    OWN,
    WARM,
    Effort,
    chosen_backend,
    first_results,
    make_rows,
    time_with_peers,
)
from bench.peers.overlap import overlap_peers
from bench.suites.overlap import as_call, checked_columns, make_inputs, own_run, subject_of, truth, warm_call

ONE_PEER = 2**29  # counted bytes above which only the first peer runs: the others take seconds a call


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_overlap(
    benchmark, overlap_op: str, overlap_case: OverlapCase, direction, effort: Effort, rows_folder
):
    op, case = overlap_op, overlap_case
    traffic = case.traffic(op, direction)
    x, grad = make_inputs(op, case)
    backend = chosen_backend(op, x)
    peers = overlap_peers(op, direction)
    if traffic.total > ONE_PEER:
        peers = dict(list(peers.items())[:1])
    runs = {OWN: own_run(op, case), **{name: build(case) for name, build in peers.items()}}
    calls = {name: as_call(run, direction, x, grad) for name, run in runs.items()}

    given = x if direction == "forward" else grad
    want = (truth(op, direction, case, given),)
    first, once = first_results(calls)
    results = {name: (checked_columns(result),) for name, result in first.items()}
    honest = results[next(iter(peers))]
    checks = {name: check(name, result, want, honest) for name, result in results.items()}
    warm_checks: dict[str, Checked] = {}
    if backend == "cpu":
        calls[WARM], out = warm_call(op, direction, case, given)
        calls[WARM]()
        warm_checks[WARM] = check(WARM, (checked_columns(out),), want, honest)
    del want, honest, results, first

    copies, probes = roofline.torch_copies(traffic), roofline.copy_probes(traffic)
    timings = time_with_peers(benchmark, calls | copies, once, effort, probes)
    subject = subject_of("overlap_merge", op, direction, case, backend)
    for output, checked in (("fresh", checks), ("warm", warm_checks)):
        equal, alike = roofline.copy_names(output), roofline.alike_names(output)
        found = roofline.rates(equal + alike, traffic.total, timings)
        made = make_rows(subject, timings, checked, found, equal, alike=alike, output=output)
        rows.append(made, rows_folder)
