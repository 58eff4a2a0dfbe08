"""Options and weights as the private ops of the compiled libraries take them (csrc/binding)."""

import torch
from torch import Tensor

from lckernels.options import AttentionOptions, number_or_tensor


def attention_arguments(options: AttentionOptions, acc: torch.dtype) -> tuple:
    """Tables in int64, tensors of the score in the accumulator's dtype."""
    (left, right), scale, layout, score, dropout_p, seed = options
    offset, offsets = number_or_tensor(layout.offset)
    origin, origins = number_or_tensor(layout.chunk_origin, 0)
    return (
        left, right, scale, offset, _table(offsets), _table(layout.kv_start),
        _table(layout.kv_end), _table(layout.kv_mask, torch.bool), _table(layout.cu_seqlens_q),
        _table(layout.cu_seqlens_k), _table(layout.segment_ids), layout.sink_tokens, layout.chunk,
        origin, _table(origins), score.softcap, _table(score.rel_bias, acc),
        score.bias_center, _table(score.sink_logits, acc), dropout_p, seed,
    )  # fmt: skip


def _table(x: Tensor | None, dtype: torch.dtype = torch.int64) -> Tensor | None:
    """An optional table, contiguous and of that dtype."""
    return None if x is None else x.to(dtype).contiguous()


def mode_and_table(weights: str | Tensor) -> tuple[str, Tensor | None]:
    """The mode of merge weights, and the table of explicit ones."""
    return ("explicit", weights.contiguous()) if isinstance(weights, Tensor) else (weights, None)
