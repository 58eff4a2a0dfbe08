"""Signals that end a process without an exception; while a file is written they remove it."""

import os
import signal
from types import FrameType

from lckernels.files import is_writing


def exit_on_signals() -> None:
    """SIGTERM and SIGHUP raise SystemExit while a file is written, unless they are handled already.

    At any other time they end the process at once, as without a handler: an exception in the middle of an
    import could end in an abort of a library's threads.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _exit)


def _exit(number: int, _frame: FrameType | None) -> None:
    if is_writing():
        raise SystemExit(128 + number)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
