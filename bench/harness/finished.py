"""The benchmarks that have finished on this machine and commit: `pytest bench --resume` leaves them out."""

from pathlib import Path

from bench.harness.rows import commit, machine

FILE = "finished.txt"  # in the folder of the rows; git ignores it


def record(folder: Path, name: str, full: bool) -> None:
    """Adds a benchmark to the list in `folder`; not where the tree differs from its commit."""
    if not commit()["dirty"]:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / FILE).open("a") as file:
            file.write(_line(name, full) + "\n")


def remaining(folder: Path, names: list[str], full: bool) -> list[str]:
    """The names that have not finished on this machine and commit; all where the tree differs from it."""
    path = folder / FILE
    if commit()["dirty"] or not path.exists():
        return names
    done = set(path.read_text().splitlines())
    return [name for name in names if _line(name, full) not in done]


def _line(name: str, full: bool) -> str:
    here = machine()
    run = f"{'full' if full else 'quick'} run, {here['cpu']}, {here['threads']} threads, {here['isa']}"
    return f"{commit()['commit']}, {run}: {name}"
