"""Tables of docs/ that a run of tests writes: the run must have every case of the table."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import pytest


class Table(Protocol):
    """What the tests of a run found."""

    def write(self, docs: Path) -> None:
        """Writes the table into the page at `docs`."""


AnyTable = TypeVar("AnyTable", bound=Table)


def written(table: AnyTable, request: pytest.FixtureRequest, option: str) -> Iterator[AnyTable]:
    """Body of a fixture: yields the table for the tests to fill, then writes it where the option is given."""
    path = request.config.getoption(option)
    docs = Path(path).resolve() if path else None
    yield table
    if docs:
        table.write(docs)


def require_cases(
    session: pytest.Session,
    option: str,
    names: tuple[str, str],
    missing_cases: Callable[[Collection[tuple[str, str]]], list[str]],
    command: str,
) -> None:
    """An error of usage before a test runs, where the option is given and the selection lacks a case.

    Args:
        session: after collection.
        option: that writes the table.
        names: of the parameters whose values are a case.
        missing_cases: cases of the selection -> what the table lacks without others, in words.
        command: that selects all.
    """
    found = [item.callspec.params for item in session.items if hasattr(item, "callspec")]
    missing = missing_cases([tuple(case[name] for name in names) for case in found if {*names} <= {*case}])
    if missing:
        raise pytest.UsageError(
            f"{option}: got a selection without {len(missing)} of its rows ({'; '.join(missing[:3])}, ...); "
            f"expected all: {command}"
        )
