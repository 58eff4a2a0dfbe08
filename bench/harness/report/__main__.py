"""`python -m bench.harness.report`: writes the page and the plots of a folder of rows."""

import argparse
from pathlib import Path

from bench.harness.report.pages import write
from bench.harness.rows import RESULTS


def main(arguments: list[str] | None = None) -> None:
    """Writes README.md and the plots beside the rows, and prints their paths."""
    parser = argparse.ArgumentParser(prog="python -m bench.harness.report", description=__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=RESULTS, help="folder of *.jsonl (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        written = write(options.folder)
    except ValueError as error:
        parser.error(str(error))
    for path in written:
        print(path)


if __name__ == "__main__":
    main()
