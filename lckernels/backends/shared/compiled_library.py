"""Loading a compiled library of torch ops."""

from pathlib import Path

import torch

_ELF64 = b"\x7fELF\x02\x01"  # 64 bits, little endian


def load_library(path: Path, namespace: str, newest: str) -> str:
    """Loads the library; returns why it cannot be used, or an empty string.

    Args:
        path: of the file.
        namespace: of its ops.
        newest: the op that was added last, which a library of an earlier version lacks.
    """
    try:
        if _is_cut(path):
            return f"{path.name} does not load: the file is incomplete"
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} does not load: {str(error.__cause__ or error).splitlines()[0]}"
    if not hasattr(getattr(torch.ops, namespace), newest):
        return f"{path.name} is of another version, without the op {newest}; install lckernels again"
    return ""


def _is_cut(path: Path) -> bool:
    """Whether the file ends before the table of sections, its last part: loading it would end the process."""
    with path.open("rb") as file:
        header = file.read(64)
    if not header.startswith(_ELF64) or len(header) < 64:
        return False
    start, size, number = (
        int.from_bytes(header[begin:end], "little") for begin, end in ((40, 48), (58, 60), (60, 62))
    )
    return path.stat().st_size < start + size * number
