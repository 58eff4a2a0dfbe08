"""Tables on the console: cells are plain text, and nothing of a cell is left out."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text as Line

from lckernels.cli.console import printable, stdout


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], wide: int | None = None) -> None:
    """Prints the rows below the heads.

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
    stdout.print(table, soft_wrap=False)
