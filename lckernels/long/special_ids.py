"""Whether rows begin and end with special tokens, where the model's config has their ids."""

import warnings
from typing import Any

import torch

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


def warn_without_special_tokens(
    batch: Batch, ids: dict[int, set[int]], special_tokens: tuple[int, int]
) -> None:
    """Warns of rows that have none of their special tokens. Reads ids on the CPU only.

    Args:
        batch: of the call.
        ids: as `special_ids` returns them.
        special_tokens: how many of them begin and end each row; one of these has an id of `ids`.
    """
    input_ids = batch.readable_ids
    if not ids or input_ids is None:
        return
    found = torch.zeros(len(input_ids), dtype=torch.bool, device="cpu")
    for column, of_column in ids.items():
        number = special_tokens[column]
        start = batch.first if column == 0 else batch.first + batch.lengths - number
        ends = input_ids.gather(1, start[:, None] + torch.arange(number, device="cpu"))
        found |= torch.isin(ends, torch.tensor(sorted(of_column), device="cpu")).any(1)
    if found.all():
        return
    known = " and ".join(
        f"{'begin' if column == 0 else 'end'} with {' or '.join(map(str, sorted(of_column)))}"
        for column, of_column in ids.items()
    )
    warnings.warn(
        f"input_ids: got a row without special tokens; by the model's config rows {known}. The first "
        "and last tokens are read as special tokens; pass special_tokens=(0, 0) if there are none",
        stacklevel=outer_stacklevel(),
    )
