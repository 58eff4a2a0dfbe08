"""chunked_attention chunk by chunk, in the memory of one chunk's scores."""

from typing import NamedTuple

import torch
from torch import Tensor

from lckernels import reference
from lckernels.backends.eager.attention import dense_backward
from lckernels.backends.eager.columns import Columns
from lckernels.backends.eager.overlap import check_weights
from lckernels.dtypes import compute_dtype
from lckernels.options import AttentionOptions, ExtraTokens, Layout, Score
from lckernels.plan import PlanArgs
from lckernels.segments import Column


class _Piece(NamedTuple):
    """A segment of a chunk: rows in its attention, columns of the weights, positions of the sequence."""

    rows: slice
    columns: slice
    positions: slice
    weight_sum: Tensor  # (length,) over all chunks
    weight: Tensor  # (length,) normalized: a divided by the sum


def chunked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra: ExtraTokens | None,
    weights: str | Tensor,
    plan: PlanArgs,
    softmax_scale: float,
) -> tuple[Tensor, Tensor | None]:
    """out, and extra_out where there are extra tokens."""
    index = Columns(plan)
    if isinstance(weights, Tensor) and weights.device.type == "cpu":
        check_weights(weights, index, plan.total_len)
    dtype, options = compute_dtype(q.dtype), _options(softmax_scale)
    out = q.new_zeros(plan.total_len, q.shape[1], v.shape[2], dtype=dtype)
    extra_out = None if extra is None else q.new_empty(*extra.q.shape[:3], v.shape[2])
    for chunk, pieces in enumerate(_chunks(index, weights, plan, dtype)):
        inputs = _inputs(q, k, v, extra, chunk, pieces)
        out_c = reference.attend(*(x.to(dtype) for x in inputs), options)[0][0]
        for piece in pieces:
            weight = piece.weight[:, None, None]
            out[piece.positions] += torch.where(weight > 0, weight * out_c[piece.rows], 0)
        if extra is not None:
            extra_out[chunk] = out_c[_num_positions(pieces) :].to(q.dtype)
    return out.to(q.dtype), extra_out


def chunked_attention_backward(
    dout: Tensor,
    dextra_out: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra: ExtraTokens | None,
    weights: str | Tensor,
    plan: PlanArgs,
    softmax_scale: float,
    out: Tensor,
) -> tuple[Tensor, Tensor, Tensor, ExtraTokens | None, Tensor | None]:
    """dq, dk, dv, dextra and dweights; the last two None where there are no extra tokens, no weight tensor.

    With `weight_c = a_c / sum a`, the gradient of chunk c's output is `weight_c dout` and that of the weight
    a_c is `(<dout, out_c> - <dout, out>) / sum a`. Rows of weight 0 are not read and have no gradient.
    """
    dtype, options = compute_dtype(q.dtype), _options(softmax_scale)
    dout = dout.to(dtype)
    mean = (dout * out.to(dtype)).sum((1, 2))
    grads = [torch.zeros(x.shape, dtype=dtype, device=x.device) for x in (q, k, v)]
    dextra = None if extra is None else ExtraTokens(*(x.new_empty(x.shape) for x in extra.tensors()))
    dweights = weights.new_zeros(weights.shape) if isinstance(weights, Tensor) else None
    for chunk, pieces in enumerate(_chunks(Columns(plan), weights, plan, dtype)):
        q_c, k_c, v_c = (x.to(dtype) for x in _inputs(q, k, v, extra, chunk, pieces))
        out_c, lse = reference.attend(q_c, k_c, v_c, options)
        dout_c = torch.zeros_like(out_c)
        read = torch.zeros(q_c.shape[1], dtype=torch.bool, device=q.device)
        for piece in pieces:
            dout_c[0, piece.rows] = piece.weight[:, None, None] * dout[piece.positions]
            read[piece.rows] = piece.weight > 0
        if dextra_out is not None:
            dout_c[0, _num_positions(pieces) :] = dextra_out[chunk].to(dtype)
            read[_num_positions(pieces) :] = True
        rows = read.nonzero().squeeze(1)
        delta = (dout_c * out_c)[:, rows].sum(-1).transpose(1, 2)
        dq_c = torch.zeros_like(q_c)
        dq_c[:, rows], dk_c, dv_c, _ = dense_backward(
            dout_c[:, rows], delta, q_c[:, rows], k_c, v_c, lse[:, :, rows], options, 0
        )
        for i, dx_c in enumerate((dq_c, dk_c, dv_c)):
            for piece in pieces:
                grads[i][piece.positions] += dx_c[0, piece.rows]
            if dextra is not None:
                dextra.tensors()[i][chunk] = dx_c[0, _num_positions(pieces) :].to(q.dtype)
        for piece in pieces if dweights is not None else ():
            gradient = _weight_grad(piece, dout, out_c[0, piece.rows], mean)
            dweights[chunk, piece.columns] = gradient.to(dweights.dtype)
    dq, dk, dv = (dx.to(q.dtype) for dx in grads)
    return dq, dk, dv, dextra, dweights


def _weight_grad(piece: _Piece, dout: Tensor, out_c: Tensor, mean: Tensor) -> Tensor:
    dots = (dout[piece.positions] * out_c).sum((1, 2))
    read = (piece.weight > 0) | torch.isfinite(out_c).all(-1).all(-1)
    gradient = (dots - mean[piece.positions]) / piece.weight_sum
    return torch.where(read & (piece.weight_sum > 0), gradient, 0)


def _chunks(index: Columns, weights: str | Tensor, plan: PlanArgs, dtype: torch.dtype) -> list[list[_Piece]]:
    a = index.weights(weights, dtype)
    weight_sum = index.add(a, a.new_zeros(plan.total_len))[index.target]
    weight = torch.where(weight_sum > 0, a / torch.where(weight_sum > 0, weight_sum, 1), 0)
    chunks: list[list[_Piece]] = [[] for _ in range(plan.num_chunks)]
    lengths = [row[Column.LENGTH] for row in index.rows]
    for row, *of_segment in zip(index.rows, weight_sum.split(lengths), weight.split(lengths), strict=True):
        chunk, col, start, length = row[: Column.KEEP_START]
        first = _num_positions(chunks[chunk])
        rows, columns = slice(first, first + length), slice(col, col + length)
        chunks[chunk].append(_Piece(rows, columns, slice(start, start + length), *of_segment))
    return chunks


def _num_positions(pieces: list[_Piece]) -> int:
    return pieces[-1].rows.stop if pieces else 0


def _inputs(
    q: Tensor, k: Tensor, v: Tensor, extra: ExtraTokens | None, chunk: int, pieces: list[_Piece]
) -> list[Tensor]:
    """q, k and v of one chunk as a batch of one: the rows of its pieces, then its extra tokens."""
    found = [[x[:0], *(x[piece.positions] for piece in pieces)] for x in (q, k, v)]
    if extra is not None:
        for rows, x in zip(found, extra.tensors(), strict=True):
            rows.append(x[chunk])
    return [torch.cat(rows)[None] for rows in found]


def _options(softmax_scale: float) -> AttentionOptions:
    return AttentionOptions((-1, -1), softmax_scale, Layout(), Score(), 0.0, None)
