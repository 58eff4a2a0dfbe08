"""SmolLM2 with a window: a decode step far into a sequence, and the prefill of a long prompt."""

import pytest

from bench.cases import book, smollm2
from bench.cases.generation import CACHED, PATCHES, PrefillCase
from bench.harness.comparison import Budget
from bench.suites import generation, prefill

_STEPS = Budget(rounds=11, seconds=0.0, peer_seconds=30.0)
_TOKENS = 2049  # of the book, whose keys fill the caches


@pytest.fixture(autouse=True)
def requires_smollm2(log):
    if smollm2.missing():
        log(f"  skipped: {smollm2.missing()}")
        pytest.skip(smollm2.missing())


def test_decode_steps(store, log):
    model, tokenizer = smollm2.load(None)
    ids = book.token_ids(tokenizer, _TOKENS)[None]
    store(generation.decode_rows(model, ids, PATCHES, CACHED, _STEPS, log))


def test_prefill(prefill_case: PrefillCase, model_budget: Budget, store, log):
    model, ids = prefill.build(prefill_case)
    store(prefill.prefill_rows(prefill_case, model, ids, model_budget, log))
