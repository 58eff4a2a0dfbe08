"""MiniLM's chunks: LongEncoder against torch's attention and onnxruntime."""

import pytest

from bench.suites.minilm import CASES, PagesCase, minilm, minilm_rows


@pytest.mark.parametrize("case", CASES, ids=[case.label for case in CASES])
def test_minilm(case: PagesCase, store, log):
    pytest.importorskip("transformers")
    try:
        model, pages = minilm()
    except SystemExit as error:
        log(f"  skipped: {error}")
        pytest.skip(str(error))
    store(minilm_rows(case, model, pages(case.tokens)))
