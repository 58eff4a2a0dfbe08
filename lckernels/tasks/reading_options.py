"""The options that every task has for reading documents: their checks."""

from lckernels.checks import bad, boolean, integer


def reading_options(batch: int, progress: bool, limit: int | None) -> tuple[int, bool, int | None]:
    """batch, progress and limit. Raises TypeError or ValueError for one that is out of range."""
    return (
        integer("batch", batch, 1),
        boolean("progress", progress),
        None if limit is None else integer("limit", limit, 1),
    )


def chunk_options(
    name: str, is_lengthened: bool, chunk_len: int | None, overlap: int | None
) -> dict[str, int]:
    """Those of chunk_len and overlap that are given.

    Args:
        name: of the model, for messages.
        is_lengthened: whether the model has its own.
        chunk_len: tokens of a chunk, or None.
        overlap: tokens that neighbouring chunks share, or None.

    Raises:
        ValueError: one is given for a model that is lengthened.
    """
    options = {"chunk_len": chunk_len, "overlap": overlap}
    given = {option: value for option, value in options.items() if value is not None}
    if is_lengthened:
        for option, value in given.items():
            got = f"{value} for {name}, which is lengthened"
            raise bad(option, got, "expected None, or a model that is not lengthened")
    return given
