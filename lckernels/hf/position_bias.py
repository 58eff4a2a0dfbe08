"""A relative position bias as one value per head and distance, in place of one per query and key.

A layer hands it on in place of a dense bias, (1 or batch, heads, seqlen_q, seqlen_k). Its five dimensions
distinguish it: (1, 1, heads, 1, 2 * reach + 1), for the distances key - query from -reach to reach, beyond
which the bias is constant.
"""

import torch
from torch import Tensor


def by_distance(values: Tensor) -> Tensor:
    """The bias with these values, (heads, 2 * reach + 1)."""
    return values[None, None, :, None, :]


def is_by_distance(bias: Tensor | None) -> bool:
    """Whether a layer's position_bias is one of this module."""
    return bias is not None and bias.dim() == 5


def table(bias: Tensor) -> tuple[Tensor, int]:
    """(rel_bias, bias_center) of `Score`."""
    values = bias[0, 0, :, 0]
    return values, (values.shape[1] - 1) // 2


def dense(bias: Tensor, seqlen_q: int, seqlen_k: int, offset: int | Tensor) -> Tensor:
    """The dense bias, (1 or batch, heads, seqlen_q, seqlen_k), of queries at key positions i + offset.

    Args:
        bias: by distance.
        seqlen_q: number of queries.
        seqlen_k: number of keys.
        offset: an int, or an integer tensor () or (batch,).
    """
    values, reach = table(bias)
    keys = torch.arange(seqlen_k, device=bias.device)
    queries = torch.arange(seqlen_q, device=bias.device)
    shift = torch.as_tensor(offset, device=bias.device).reshape(-1, 1, 1)
    distance = keys - queries[:, None] - shift
    return values[:, (distance + reach).clamp(0, 2 * reach)].transpose(0, 1)
