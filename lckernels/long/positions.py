"""The positions of a model: its table, the first one of a sequence, how many there are."""

from torch import nn


def position_table(model: nn.Module) -> nn.Embedding | None:
    """The model's table of absolute positions; None if it has none."""
    tables = (getattr(module, "position_embeddings", None) for module in model.modules())
    return next((table for table in tables if isinstance(table, nn.Embedding)), None)


def first_position(model: nn.Module) -> int:
    """The position of a sequence's first token: RoBERTa, XLM-R and MPNet count from padding_idx + 1."""
    table = position_table(model)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1


def usable_positions(model: nn.Module) -> tuple[int, str] | None:
    """The most tokens that the model's positions allow, and the rule in words; None without a limit."""
    table = position_table(model)
    if table is not None:
        limit = f"max_position_embeddings {table.num_embeddings}"
        if table.padding_idx is None:
            return table.num_embeddings, limit
        return table.num_embeddings - first_position(model), f"{limit} - padding_idx {table.padding_idx} - 1"
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions, f"max_position_embeddings {positions}"
