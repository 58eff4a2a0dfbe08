"""Files that appear whole or not at all, and whether a file can be written."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from lckernels.errors import InputError

_open: set[str] = set()  # names of the folders of this process's writers
_lock = Lock()  # held while folders are created, and swept


def reason(error: Exception) -> str:
    """The first line of the error's message; for an OSError the system's words for its number."""
    return getattr(error, "strerror", None) or (str(error) or type(error).__name__).split("\n")[0]


def resolve_link(path: Path) -> Path:
    """The target of a symbolic link, as far as it exists; any other path itself.

    Raises:
        InputError: the links form a loop.
    """
    try:
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} cannot be written: {reason(error)}") from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file to write, in a folder of its own beside `path`; it replaces `path` at the end.

    An empty file replaces nothing. The folder is removed at the end and on any exception; what a killed
    process left is removed by the next writer of the same path.

    Raises:
        InputError: for any OSError within.
    """
    folder = None
    try:
        with _lock:
            _remove_leftovers(path)
            folder = Path(tempfile.mkdtemp(".partial", f".{path.name}.{os.getpid()}.", path.parent))
            _open.add(folder.name)
        partial = folder / "file"
        # The permissions are those of the umask; a writer may give its file others.
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        if partial.stat().st_size:
            partial.chmod(mode)
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {reason(error)}") from None
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            _open.discard(folder.name)


def is_writing() -> bool:
    """Whether a `whole_file` of this process is open."""
    return bool(_open)


def check_writable(path: Path) -> None:
    """Raises InputError if a file at `path` can be neither written nor created; creates none."""
    try:
        existed = path.exists()
        with open(path, "ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {reason(error)}") from None


def check_place(path: Path, what: str) -> None:
    """Raises InputError before any work when a file cannot be written to `path`.

    Args:
        path: of the file; a symbolic link is followed.
        what: the file in words, such as "picture".
    """
    path = resolve_link(path)
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} for {path.name} does not exist")
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file for the {what}")
    check_writable(path)


def _remove_leftovers(path: Path) -> None:
    """Removes the temporary folders of writers of `path` that no longer run."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.(?:\w+\.)?partial")
    for leftover in path.parent.iterdir():
        match = name.fullmatch(leftover.name)
        if match and leftover.name not in _open and not _is_another_running(int(match.group(1))):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_another_running(pid: int) -> bool:
    """Whether `pid` is another process that runs; this process's own number may be one used before."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
