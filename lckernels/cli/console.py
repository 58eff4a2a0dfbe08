"""Results on stdout, remarks and errors on stderr, and the checks that every command makes first."""

import json
import math
import os
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

from rich.console import Console

from lckernels.errors import InputError
from lckernels.extras import import_extra

# Names of files and models are text, not markup.
_PLAIN = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
stdout = Console(**_PLAIN)
stderr = Console(**_PLAIN, stderr=True, style="dim")


def printable(text: str) -> str:
    """The text without control characters and what the terminal cannot encode.

    Line feeds and tabs are kept. Other control characters become a space if they are white space, else
    U+FFFD, as do lone surrogates.
    """
    return "".join(map(_printable_character, text.replace("\r\n", "\n")))


def _printable_character(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs"):
        return character
    return " " if character.isspace() else "\ufffd"


def print_remark(line: str) -> None:
    """Prints a line on stderr."""
    stderr.print(printable(line))


def print_error(message: str) -> None:
    """Prints the message on stderr as one line."""
    print(f"lckernels: {' '.join(map(str.strip, printable(message).splitlines()))}", file=sys.stderr)


def print_json(found: dict[str, Any]) -> None:
    """Prints one object as one line on stdout; a number that is not finite becomes null."""
    stdout.print(json.dumps(_finite(found), allow_nan=False))


def _finite(value: Any) -> Any:
    """The value with None for each float in it that is not finite, and text that can be encoded."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def remarks(quiet: bool) -> Callable[[str], None]:
    """The function that receives remarks: print_remark, or with `quiet` one without effect."""
    return (lambda _: None) if quiet else print_remark


def show_progress(quiet: bool) -> bool:
    """Whether to show progress bars: on a terminal, unless `quiet`."""
    return not quiet and sys.stderr.isatty()


def require_extras(modules: dict[str, str]) -> None:
    """Raises ImportError naming the extra if a module is missing.

    Args:
        modules: module -> the extra that installs it.
    """
    for module, extra in modules.items():
        import_extra(module, extra)


def silence_libraries() -> None:
    """No warnings and progress bars of transformers and huggingface_hub on the console of a command."""
    logging = import_extra("transformers", "hf").logging
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    import_extra("huggingface_hub", "hf").logging.set_verbosity_error()


def set_threads(threads: int | None) -> None:
    """Sets torch's number of threads; None leaves it.

    Raises:
        InputError: `threads` is above the number of processors.
    """
    if threads is None:
        return
    import torch

    most = max(os.cpu_count() or 1, torch.get_num_threads())
    if threads > most:
        raise InputError(f"--threads is {threads}; this machine takes up to {most}")
    torch.set_num_threads(threads)
