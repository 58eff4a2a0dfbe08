"""What a command does before its work: extras, threads, and whether it talks."""

import os
import sys
from collections.abc import Callable

import torch

from lckernels.cli import report
from lckernels.errors import InputError
from lckernels.extras import import_extra


def need(modules: dict[str, str]) -> None:
    """Raises ImportError naming the extra before any work when a module is missing; module -> its extra."""
    for module, extra in modules.items():
        import_extra(module, extra)


def set_threads(threads: int | None) -> None:
    """Raises InputError for more than the machine takes; None leaves torch's own number."""
    if threads is None:
        return
    most = max(os.cpu_count() or 1, torch.get_num_threads())
    if threads > most:
        raise InputError(f"--threads is {threads}; this machine takes up to {most}")
    torch.set_num_threads(threads)


def talk(quiet: bool) -> tuple[bool, Callable[[str], None]]:
    """Whether there is a progress bar, on a terminal only, and what takes remarks."""
    if quiet:
        return False, lambda _: None
    return sys.stderr.isatty(), report.say
