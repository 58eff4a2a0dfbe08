"""Files that appear whole or not at all, and whether a file can be written."""

import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lckernels.errors import InputError


def reason(error: Exception) -> str:
    """Why, as the first line of the error: the system's words for an OSError that it made."""
    return getattr(error, "strerror", None) or (str(error) or type(error).__name__).split("\n")[0]


def real_path(path: Path) -> Path:
    """Where a symbolic link leads, as far as that exists; any other path itself. Raises InputError."""
    try:
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} cannot be written: {reason(error)}") from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, in a folder of its own beside `path`; it becomes `path` at the end unless empty.

    The folder goes at the end, on an error, and on SIGTERM and SIGHUP; what a killed process left is removed
    by the next to write the same file. Raises InputError for any OSError within.
    """
    folder = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with _exit_on_signals():
        try:
            _sweep(path)
            folder.mkdir(mode=0o700)
            partial = folder / "file"
            # What others may read is the umask's decision; a writer may give its file other permissions.
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
            shutil.rmtree(folder, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Raises InputError when a file at `path` can be neither written nor made; makes none."""
    try:
        existed = path.exists()
        with open(path, "ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {reason(error)}") from None


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
            shutil.rmtree(leftover, ignore_errors=True)


def _is_running(pid: int) -> bool:
    # A folder named after this process is of an earlier one with its number: it makes one at a time.
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
