"""Entry point of the command `lckernels`; the commands are in lckernels/cli/main.py."""

import sys

from lckernels.extras import import_extra


def main() -> None:
    """Runs the command line. Exits with 2 and one sentence on stderr for bad input or a missing extra."""
    try:
        import_extra("typer", "cli")
        import_extra("rich", "cli")
    except ImportError as error:
        print(f"lckernels: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    from lckernels.cli.main import app

    app(prog_name="lckernels")
