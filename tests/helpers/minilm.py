"""The mark of tests that read MiniLM, which `make models` installs."""

from importlib.util import find_spec

import pytest

from bench.cases import minilm

requires_minilm = pytest.mark.skipif(
    find_spec(minilm.PACKAGE) is None, reason=f"requires {minilm.PACKAGE} (make models)"
)
