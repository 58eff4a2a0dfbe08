"""overlap_merge and overlap_split, forward and backward, against plain torch and the machine's copies."""

import pytest

from bench.cases.overlap import OverlapCase
from bench.harness import roofline
from bench.harness.check import Checked, check
from bench.harness.comparison import (
    OWN,
    WARM,
    Budget,
    chosen_backend,
    first_results,
    make_rows,
    time_with_peers,
)
from bench.peers.overlap import overlap_peers
from bench.suites.overlap import as_call, checked_columns, make_inputs, own_run, subject_of, truth, warm_call

ONE_PEER = 2**29  # counted bytes above which only the first peer runs; the others take seconds per call


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_overlap(benchmark, overlap_op: str, overlap_case: OverlapCase, direction, budget: Budget, store):
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
    baseline = results[next(iter(peers))]
    checks = {name: check(name, result, want, baseline) for name, result in results.items()}
    warm_checks: dict[str, Checked] = {}
    if backend == "cpu":
        calls[WARM], out = warm_call(op, direction, case, given)
        calls[WARM]()
        warm_checks[WARM] = check(WARM, (checked_columns(out),), want, baseline)
    del want, baseline, results, first

    copies, probes = roofline.torch_copies(traffic), roofline.copy_probes(traffic)
    timings = time_with_peers(benchmark, calls | copies, once, budget, probes)
    subject = subject_of("overlap_merge", op, direction, case, backend)
    for output, checked in (("fresh", checks), ("warm", warm_checks)):
        equal, comparable = roofline.copy_names(output), roofline.same_traffic_names(output)
        found = roofline.rates(equal + comparable, traffic.total, timings)
        made = make_rows(subject, timings, checked, found, equal, comparable=comparable, output=output)
        store(made)
