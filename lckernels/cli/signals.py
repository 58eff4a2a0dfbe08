"""Signals that end a process without an exception, turned into one, so that unfinished files are removed."""

import signal
from types import FrameType


def exit_on_signals() -> None:
    """SIGTERM and SIGHUP raise SystemExit from now on, unless they are handled or ignored already."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _exit)


def _exit(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
