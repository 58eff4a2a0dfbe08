"""Dense attention: every score in memory, with a mask, a bias or weights that no kernel supports."""

from typing import Any

import torch
from torch import Tensor, nn

from lckernels.hf.masks.kinds import is_causal
from lckernels.hf.private import sdpa_attention_forward


def dense_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    weights: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention by scaled_dot_product_attention; softcap, sinks and weights by plain torch operations.

    Args:
        module: the attention layer.
        query: (batch, num_heads, seqlen_q, head_dim).
        key: (batch, num_kv_heads, seqlen_k, head_dim).
        value: (batch, num_kv_heads, seqlen_k, head_dim_v).
        mask: (batch, 1 or num_heads, seqlen_q, seqlen_k), bool or numbers to add to the scores; or None.
        dropout: probability; 0 outside training.
        scaling: of the scores; default: head_dim ** -0.5.
        weights: whether to return the attention weights.
        **options: as of `attention`.

    Returns:
        out (batch, seqlen_q, num_heads, head_dim_v); the weights, (batch, num_heads, seqlen_q, seqlen_k), or
        None. The softmax is in fp32.
    """
    softcap, sinks = options.pop("softcap", None), options.pop("s_aux", None)
    if not softcap and sinks is None and not weights:
        options.pop("output_attentions", None)
        return sdpa_attention_forward(module, query, key, value, mask, dropout, scaling, **options)
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) if group > 1 else x for x in (key, value))
    scores = (query @ key.mT) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if options.get("position_bias") is not None:
        scores = scores + options["position_bias"]
    if mask is None and query.shape[2] > 1 and is_causal(module, options):
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    if sinks is not None:
        column = sinks.to(scores.dtype).reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], dim=-1)
    probs = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
    probs = probs if sinks is None else probs[..., :-1]
    probs = nn.functional.dropout(probs, dropout, training=dropout > 0)
    return (probs @ value).transpose(1, 2).contiguous(), probs if weights else None
