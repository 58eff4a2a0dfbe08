"""windowed_attention, forward and backward, against SDPA with a mask and FlexAttention."""

import pytest
import torch

from bench import ceilings, rows
from bench.attention import as_call, by_head, make_inputs, own_attend, subject_of, truth
from bench.cases import AttentionCase
from bench.check import check
from bench.contest import OWN, Effort, chosen_backend, first_results, make_rows, time_with_peers
from bench.peers import attention_by_flex, attention_by_sdpa_mask
from lckernels import BackendError

HONEST = "sdpa_mask"


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_attention(benchmark, attention_case: AttentionCase, direction, effort: Effort, rows_folder):
    case = attention_case
    inputs = make_inputs(case)
    try:
        backend = chosen_backend("windowed_attention", *inputs[:3], score_bytes=case.score_bytes)
    except BackendError as error:
        pytest.skip(str(error))
    calls = {OWN: as_call(own_attend(case), direction, inputs)}
    peers = {HONEST: attention_by_sdpa_mask}
    if direction == "forward":  # FlexAttention has no backward on a CPU
        peers["flex"] = attention_by_flex
    theirs = by_head(inputs)
    calls |= {name: as_call(build(case), direction, theirs) for name, build in peers.items()}

    want = truth(case, direction, inputs)
    first, once = first_results(calls)
    results = {name: result if name == OWN else by_head(result) for name, result in first.items()}
    checks = {name: check(name, result, want, results[HONEST]) for name, result in results.items()}
    del want, results, first

    timings = time_with_peers(benchmark, calls, once, effort)
    subject = subject_of("attention", direction, case, backend)
    vector = ceilings.flop_probes(case.dtype)
    every = vector | (ceilings.amx_probe() if case.dtype == torch.bfloat16 else {})
    rows.append(make_rows(subject, timings, checks, every, tuple(every), alike=tuple(vector)), rows_folder)
