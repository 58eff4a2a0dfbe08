"""Passages on stdout."""

import textwrap

from rich.text import Text as Line
from torch import Tensor

from lckernels.cli.console import printable, stdout
from lckernels.search.passages import Passages
from lckernels.search.text import Text


def print_passages(text: Text, passages: Passages, scores: Tensor, best: Tensor) -> None:
    """Prints the best passages: rank, score and position, then their lines as they are in the text."""
    for rank, passage in enumerate(best.tolist(), start=1):
        start, end = passages.chars[passage].tolist()
        head = Line(f"{rank:>2}  ", style="bold")
        head.append(f"score {scores[passage]:.3f}", style="bold green")
        where = f"   {text.percent(start):.1f} % of the text, line {text.line(start):,}, character {start:,}"
        head.append(where, style="cyan")
        stdout.print(head)
        stdout.print(Line(textwrap.indent(printable(text.lines(start, end)), "    ")))
        stdout.print()
