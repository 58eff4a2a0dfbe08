"""Tokens with global attention: they see all tokens and all tokens see them; the others have a window."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.functional import windowed_attention
from lckernels.hf.masks.padding import padding_layout
from lckernels.instance_attributes import Installed
from lckernels.options import Layout

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class GlobalTokens:
    """The tokens of a batch with global attention; rows may have different numbers of them.

    Attributes:
        rows: (count,) row of each token.
        columns: (count,) its position in the row.
        places: (count,) its place among the tokens of its row.
        counts: (batch,) their numbers.
        positions: (batch, most) the positions by row; 0 in the places that a row lacks.
    """

    rows: Tensor
    columns: Tensor
    places: Tensor
    counts: Tensor
    positions: Tensor

    @classmethod
    def of(cls, is_global: Tensor) -> "GlobalTokens":
        """The tokens that `is_global`, (batch, seqlen) bool, marks."""
        counts = is_global.sum(1)
        rows, columns = is_global.nonzero(as_tuple=True)
        places = is_global.cumsum(1)[rows, columns] - 1
        positions = columns.new_zeros(is_global.shape[0], int(counts.max()))
        positions[rows, places] = columns
        return cls(rows, columns, places, counts, positions)

    def are_first(self, valid: Tensor) -> bool:
        """Whether each row begins, after padding, with the same number of these tokens and has no others."""
        most = self.positions.shape[1]
        starts = valid.to(torch.uint8).argmax(1, keepdim=True)
        first = starts + torch.arange(most, device=valid.device)
        return bool((self.counts == most).all()) and torch.equal(self.positions, first)

    def of_rows(self, x: Tensor) -> Tensor:
        """These tokens of x (batch, seqlen, ...), as (batch, most, ...)."""
        return x[torch.arange(x.shape[0], device=x.device)[:, None], self.positions]

    def keys(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        """Attention of all queries to these keys alone, and its lse; `options` of windowed_attention."""
        layout = Layout(offset=0, kv_end=self.counts)
        k, v = self.of_rows(k), self.of_rows(v)
        return windowed_attention(q, k, v, layout=layout, return_lse=True, **options)

    def replaced(self, out: Tensor, new: Tensor) -> Tensor:
        """out (batch, seqlen, ...) with new (batch, most, ...) at these tokens; may change out."""
        values = new[self.rows, self.places].to(out.dtype)
        if torch.is_grad_enabled() and (out.requires_grad or values.requires_grad):
            return out.index_put((self.rows, self.columns), values)
        return out.index_put_((self.rows, self.columns), values)


def attend_from_tokens(
    q: Tensor, x: Tensor, valid: Tensor, key: nn.Module, value: nn.Module, **options: Any
) -> Tensor:
    """Attention of q to the projections of all valid tokens: (batch, most, heads, head_dim).

    For few queries `q . (W_k x + b_k)` is computed as `(q W_k) . x` up to a constant of the query, and
    `sum_j p_j (W_v x_j + b_v)` as `W_v sum_j p_j x_j + b_v`: x itself is keys and values, one head for all.

    Args:
        q: (batch, most, heads, head_dim).
        x: (batch, seqlen, dim) states of the tokens.
        valid: (batch, seqlen) bool.
        key: layer from states to keys, dim -> heads * head_dim.
        value: the same for values.
        **options: of windowed_attention; softmax_scale is required.
    """
    heads = q.shape[2:]
    options["layout"] = padding_layout(valid)
    if not _few(q, x, key, value, options["dropout_p"]):
        k, v = (layer(x).unflatten(-1, heads) for layer in (key, value))
        return windowed_attention(q, k, v, **options)
    wide = torch.einsum("bqhd,hdc->bqhc", q, key.weight.unflatten(0, heads))
    out = windowed_attention(wide, x[:, :, None], x[:, :, None], **options)
    out = torch.einsum("bqhc,hdc->bqhd", out, value.weight.unflatten(0, heads))
    if key.bias is not None:  # a constant of each query's scores, so that its gradient is zero
        out = out + 0 * key.bias.sum()
    return out if value.bias is None else out + value.bias.unflatten(0, heads)


def _few(q: Tensor, x: Tensor, key: nn.Module, value: nn.Module, dropout: float) -> bool:
    """Whether attention to x itself takes less time.

    It takes 4 * queries * heads * seqlen * dim operations, at a head_dim that only the CPU's kernels support;
    the projections take 4 * seqlen * dim**2.
    """
    if 2 * q.shape[1] > q.shape[3] or dropout or q.device.type != "cpu" or q.dtype != x.dtype:
        return False
    return _is_plain(key) and _is_plain(value)


def _is_plain(layer: nn.Module) -> bool:
    """Whether the layer's result is that of its weight and bias, and nothing else sees it."""
    own = layer.__dict__.get("forward")
    hooks = any(getattr(layer, name, None) for name in _HOOKS)
    return type(layer) is nn.Linear and (own is None or isinstance(own, Installed)) and not hooks
