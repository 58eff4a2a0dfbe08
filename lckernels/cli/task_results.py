"""What every command for a task does with its results: JSON or tables, and a page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lckernels.cli.console import print_json, printable, stdout
from lckernels.cli.pages.elements import save_page


def write_results(
    as_json: Callable[[], dict[str, Any]],
    print_report: Callable[[], None],
    page: Callable[[], str],
    *,
    html: Path | None,
    json: bool,
    quiet: bool,
) -> None:
    """Prints one object or a report, and saves the page.

    Args:
        as_json: makes the object, without the key `page`.
        print_report: prints the tables.
        page: makes the page.
        html: where the page goes. None: nowhere.
        json: whether to print the object.
        quiet: whether the report ends without the page's place.
    """
    if json:
        print_json({**as_json(), "page": None if html is None else str(html)})
    else:
        print_report()
    if html is not None:
        save_page(html, page())
        if not (quiet or json):
            stdout.print(printable(f"page: {html}"))
