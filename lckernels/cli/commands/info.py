"""The command info."""

from rich.table import Table
from rich.text import Text as Line

from lckernels.cli.console import print_json, stdout
from lckernels.cli.options import JsonOption


def info(json: JsonOption = False) -> None:
    """Show versions, what was built, the machine, and which backend runs which op and why."""
    from lckernels import info as installation

    facts = {
        "versions": installation.versions(),
        "built": installation.built(),
        "machine": installation.machine(),
    }
    served = installation.served()
    if json:
        backends = [
            {"op": op, "device": device, "dtypes": dtypes.split(", "), "backend": backend, "others": others}
            for op, device, dtypes, backend, others in served
        ]
        print_json({**facts, "backends": backends})
        return
    for title, rows in facts.items():
        table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
        table.add_column(min_width=26)
        for row in rows.items():
            table.add_row(*row)
        stdout.print(table, soft_wrap=False)
        stdout.print()
    stdout.print(Line("backends", style="italic"))
    for op, device, dtypes, backend, others in served:
        stdout.print(Line.assemble((op, "bold"), f" on {device}, {dtypes}: ", (backend, "green")))
        for why in others:
            stdout.print(Line(f"    not {why}", style="dim"))
