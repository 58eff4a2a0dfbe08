"""The command info."""

from rich.table import Table
from rich.text import Text as Line

from lckernels import info as installation
from lckernels.cli.console import stdout


def info() -> None:
    """Show versions, what was built, the machine, and which backend serves which op and why."""
    facts = {
        "versions": installation.versions(),
        "built": installation.built(),
        "machine": installation.machine(),
    }
    for title, rows in facts.items():
        table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
        table.add_column(min_width=26)
        for row in rows.items():
            table.add_row(*row)
        stdout.print(table, soft_wrap=False)
        stdout.print()
    stdout.print(Line("backends", style="italic"))
    for op, device, dtypes, backend, others in installation.served():
        stdout.print(Line.assemble((op, "bold"), f" on {device}, {dtypes}: ", (backend, "green")))
        for why in others:
            stdout.print(Line(f"    not {why}", style="dim"))
