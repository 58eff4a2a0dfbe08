"""LongEncoder on a row that fits in one chunk, against its model."""

import pytest

from bench.suites.one_chunk import CASES, OneChunkCase, one_chunk_rows


@pytest.mark.parametrize("case", CASES, ids=[case.label for case in CASES])
def test_one_chunk(case: OneChunkCase, store):
    pytest.importorskip("transformers")
    store(one_chunk_rows(case))
