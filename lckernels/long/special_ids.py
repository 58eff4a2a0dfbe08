"""Whether rows begin and end with special tokens, where the model's config has their ids."""

import warnings
from typing import Any

from lckernels.callers import outer_stacklevel
from lckernels.long.batches import Batch

_NAMES = {0: ("bos_token_id", "cls_token_id"), -1: ("eos_token_id", "sep_token_id")}


def special_ids(config: Any, num_leading: int, num_trailing: int) -> dict[int, set[int]]:
    """The ids of the special tokens at the ends of a row, where there are some and the config has their ids.

    Args:
        config: of the model.
        num_leading: special tokens at the beginning.
        num_trailing: special tokens at the end.

    Returns:
        For column 0 and for column -1 the ids. An id that is also that of padding is none: configs of old
        versions have 0 for both.
    """
    ids = {}
    for column, number in ((0, num_leading), (-1, num_trailing)):
        values = [getattr(config, name, None) for name in _NAMES[column]] if number else []
        flat = [x for value in values for x in (value if isinstance(value, list | tuple) else [value])]
        ids[column] = {x for x in flat if isinstance(x, int)} - {getattr(config, "pad_token_id", None)}
    return {column: of_column for column, of_column in ids.items() if of_column}


def warn_without_special_tokens(batch: Batch, ids: dict[int, set[int]]) -> None:
    """Warns of rows that have none of their special tokens. Reads ids on the CPU only."""
    input_ids = batch.readable_ids
    if not ids or input_ids is None:
        return
    if batch.whole:
        ends = {column: input_ids[:, column].tolist() for column in ids}
    else:
        last = batch.first + batch.lengths - 1
        columns = {0: batch.first, -1: last}
        ends = {column: input_ids.gather(1, columns[column][:, None])[:, 0].tolist() for column in ids}
    for row in zip(*ends.values(), strict=True):
        if not any(token in of_column for token, of_column in zip(row, ids.values(), strict=True)):
            known = " and ".join(
                f"{'begin' if column == 0 else 'end'} with {' or '.join(map(str, sorted(ids[column])))}"
                for column in ids
            )
            warnings.warn(
                f"input_ids: got a row without special tokens; by the model's config rows {known}. The first "
                "and last tokens are read as special tokens; pass special_tokens=(0, 0) if there are none",
                stacklevel=outer_stacklevel(),
            )
            return
