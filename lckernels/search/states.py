"""Hidden states of a text on disk: one safetensors file, written whole or not at all."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from torch import Tensor

from lckernels.search.errors import InputError

FORMAT = "lckernels-states-1"
# These must agree for states to be used again; the versions and the model's name are only told.
IDENTITY = ("text_sha256", "weights_sha256", "chunk_len", "overlap", "weights", "boundaries", "dtype")


@dataclass(frozen=True, eq=False)
class States:
    """states: (num_tokens, dim), a row per token of the text, special tokens left out.

    offsets: (num_tokens, 2) int64, the characters of each token. metadata: strings, see docs/cli.md.
    """

    states: Tensor
    offsets: Tensor
    metadata: dict[str, str]


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a states file. Raises InputError when the file is something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} exists and is not a file of states: {error}") from None
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} exists and is not a file of states of lckernels ({FORMAT})")
    return metadata


def differences(metadata: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Why stored states cannot be used, e.g. ["overlap is 32, not 64"]; empty when they can."""
    return [
        f"{name} is {metadata.get(name)}, not {wanted[name]}"
        for name in IDENTITY
        if metadata.get(name) != wanted[name]
    ]


def load_states(path: Path) -> States:
    """Reads a states file. Raises InputError when it is something else or damaged."""
    from safetensors.torch import load_file

    metadata = read_metadata(path)
    tensors = load_file(path)
    return States(tensors["states"], tensors["offsets"], metadata)


def check_target(path: Path) -> None:
    """Raises InputError before any work when `path` cannot be written, or holds anything but states."""
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} for {path.name} does not exist")
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file for the states")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"the folder {path.parent} for {path.name} is not writable")
    if path.exists():
        read_metadata(path)


def save_states(path: Path, states: States) -> None:
    """Writes beside the target, then renames: the file at `path` is whole or absent, whatever happens."""
    from safetensors.torch import save_file

    _sweep(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with _exit_on_signals():
        try:
            tensors = {"states": states.states.contiguous(), "offsets": states.offsets.contiguous()}
            save_file(tensors, partial, states.metadata)
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP raise SystemExit, so that `finally` runs; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _exit) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _sweep(path: Path) -> None:
    """Removes what a writer of `path` left that was killed without notice and is no longer there."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.partial")
    for leftover in path.parent.iterdir():
        match = name.fullmatch(leftover.name)
        if match and not _is_running(int(match.group(1))):
            leftover.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
