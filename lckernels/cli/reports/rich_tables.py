"""Tables on the console: cells are plain text, and nothing of a cell is left out."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text as Line

from lckernels.cli.console import printable, stdout

_ANY_WIDTH = 1_000_000  # columns of a file or a pipe


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], wide: int | None = None) -> None:
    """Prints the rows below the heads; a row is one line unless it is wider than the terminal.

    Args:
        heads: the names of the columns.
        rows: of cells.
        wide: the column with text of any length; the others are numbers or names, to the right.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column, name in enumerate(heads):
        is_text = column == wide
        table.add_column(
            Line(name), justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text
        )
    for row in rows:
        table.add_row(*(Line(" ".join(printable(cell).split())) for cell in row))
    if stdout.is_terminal:
        stdout.print(table, soft_wrap=False)
        return
    for line in stdout.render_lines(table, stdout.options.update(max_width=_ANY_WIDTH), pad=False):
        stdout.print(Line("".join(segment.text for segment in line).rstrip()))
