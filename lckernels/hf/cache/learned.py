"""Learned positions of the tokens of a call: their table ends, and positions="cache" stops before its end."""

from typing import Any

import torch
from torch import Tensor

from lckernels.checks import bad


def num_tokens(given: dict[str, Any]) -> int:
    """Number of tokens of each row of a call with these arguments."""
    return tokens_of(given).shape[1]


def learned_positions_of(
    given: dict[str, Any], past: int, num_positions: int, of_mask: bool, limit: int | None
) -> Tensor | None:
    """The position_ids that a call requires; None where those that it has, or the model's own, remain.

    Args:
        given: arguments of the call.
        past: tokens before it, in the cache.
        num_positions: number of positions in the model's table.
        of_mask: whether the model counts the tokens of the attention mask, without position_ids.
        limit: the last position that may be used, with positions="cache"; None with "absolute".

    Raises:
        ValueError: a token whose position the table does not have.
    """
    total = past + num_tokens(given)
    if total <= (num_positions if limit is None else limit + 1):
        return None
    positions = _positions(given, past, of_mask)
    if limit is not None:
        return positions.clamp(max=limit)
    last = int(positions.max())
    if last >= num_positions:
        raise bad(
            "input_ids", f"a token at position {last}",
            f"the model has {num_positions} learned positions. patch(positions='cache') counts them in the "
            "KV cache, which is shorter",
        )  # fmt: skip
    return None


def _positions(given: dict[str, Any], past: int, of_mask: bool) -> Tensor:
    """The positions of a call's tokens, (batch or 1, seqlen), as the model has them."""
    own, mask, tokens = given.get("position_ids"), given.get("attention_mask"), tokens_of(given)
    if own is not None:
        return own
    if of_mask and mask is not None:
        return (mask.cumsum(1) * mask - 1).long()[:, past : past + tokens.shape[1]]
    return torch.arange(past, past + tokens.shape[1], device=tokens.device)[None]


def tokens_of(given: dict[str, Any]) -> Tensor | None:
    """The ids or embeddings of a call with these arguments; None without any."""
    found = (given.get(name) for name in ("input_ids", "inputs_embeds"))
    return next((x for x in found if isinstance(x, Tensor) and x.ndim > 1), None)
