"""MiniLM's chunks: LongEncoder on packed weights against itself without, sdpa and onnxruntime."""

import pytest

from bench.cases import minilm
from bench.suites.minilm import CASES, PagesCase, minilm_rows


@pytest.mark.parametrize("case", CASES, ids=[case.label for case in CASES])
def test_minilm(case: PagesCase, store, log):
    pytest.importorskip("transformers")
    try:
        model, tokenizer = minilm.load()
    except SystemExit as error:
        log(f"  skipped: {error}")
        pytest.skip(str(error))
    store(minilm_rows(case, model, minilm.token_ids(tokenizer, case.tokens)))
