"""The positions of a model: its table, the first one of a sequence, how many there are."""

import torch
from torch import Tensor, nn

from lckernels.prompts import num_prefix_keys


def position_table(model: nn.Module) -> nn.Embedding | None:
    """The model's table of absolute positions; None if it has none."""
    tables = (getattr(module, "position_embeddings", None) for module in model.modules())
    return next((table for table in tables if isinstance(table, nn.Embedding)), None)


def first_position(model: nn.Module) -> int:
    """The position of a sequence's first token: RoBERTa, XLM-R and MPNet count from padding_idx + 1."""
    table = position_table(model)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1


def chunk_positions(model: nn.Module, index: Tensor, input_ids: Tensor | None) -> Tensor:
    """The position that the model gives to each column of each chunk.

    RoBERTa, XLM-R and MPNet do not count tokens with the id of padding; these have the position padding_idx.

    Args:
        model: with a table of absolute positions.
        index: (num_chunks, chunk_len) int64 on the CPU, the entry of the flattened batch in each column.
        input_ids: (num_entries,) integers; None for embeddings, whose ids are not known.

    Returns:
        (num_chunks, chunk_len) int64 on the CPU.
    """
    padding = getattr(position_table(model), "padding_idx", None)
    if padding is None or input_ids is None:
        return (torch.arange(index.shape[1], device="cpu") + first_position(model)).expand_as(index)
    counted = (input_ids.cpu()[index] != padding).long()
    return counted.cumsum(1) * counted + padding


def usable_positions(model: nn.Module) -> tuple[int, str] | None:
    """The most tokens that the model's positions allow, and the rule in words; None without a limit."""
    found = _all_positions(model)
    keys = num_prefix_keys(model)
    if found is None or not keys:
        return found
    return found[0] - keys, f"{found[1]} - {keys} virtual tokens of prefix tuning"


def _all_positions(model: nn.Module) -> tuple[int, str] | None:
    owner = _table_owner(model)
    if owner is not None:
        return _of_table(owner)
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions, f"max_position_embeddings {positions}"


def _table_owner(model: nn.Module) -> nn.Module | None:
    """The module that has the table of absolute positions; that of I-BERT is no nn.Embedding."""
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        is_table = isinstance(table, nn.Module) and hasattr(table, "padding_idx")
        if isinstance(table, nn.Embedding) or (is_table and isinstance(table.weight, Tensor)):
            return module
    return None


def _of_table(owner: nn.Module) -> tuple[int, str]:
    """`usable_positions` of the module with the table."""
    table = owner.position_embeddings
    rows = table.num_embeddings if isinstance(table, nn.Embedding) else len(table.weight)
    usable, limit = rows, f"max_position_embeddings {rows}"
    if table.padding_idx is not None:
        usable, limit = rows - table.padding_idx - 1, f"{limit} - padding_idx {table.padding_idx} - 1"
    # Nystromformer, MRA and YOSO have two more rows than positions.
    positions = getattr(owner, "position_ids", None)
    if isinstance(positions, Tensor) and positions.dim() == 2 and positions.shape[1] < usable:
        return positions.shape[1], f"max_position_embeddings {positions.shape[1]}"
    return usable, limit
