"""Lengthened models: a short row against the model, and token classification against its pipeline."""

import pytest

from bench.suites.one_chunk import OneChunkCase, one_chunk_rows
from bench.suites.token_classification import CASES, TokenCase, token_classification_rows

SHORT = (OneChunkCase(12, 384, op="lengthen"), OneChunkCase(128, 384, op="lengthen"))


@pytest.mark.parametrize("case", SHORT, ids=[case.label for case in SHORT])
def test_short_row(case: OneChunkCase, store):
    pytest.importorskip("transformers")
    store(one_chunk_rows(case))


@pytest.mark.parametrize("case", CASES, ids=[case.label for case in CASES])
def test_token_classification(case: TokenCase, store):
    pytest.importorskip("transformers")
    store(token_classification_rows(case))
