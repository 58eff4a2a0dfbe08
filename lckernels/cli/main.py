"""Entry point of the command `lckernels`."""

import sys

from lckernels.cli.signals import exit_on_signals
from lckernels.extras import import_extra


def main() -> None:
    """Runs the command line. Exits with 2 and one sentence on stderr for bad input or a missing extra."""
    try:
        import_extra("typer", "cli")
        import_extra("rich", "cli")
    except ImportError as error:
        print(f"lckernels: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    exit_on_signals()
    from lckernels.cli.app import app

    app(prog_name="lckernels")
