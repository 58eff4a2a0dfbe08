"""The public functions: signatures, shapes and argument checks; `reference.py` defines what they compute."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lckernels.arguments import (
    check_attention,
    check_backend,
    check_chunked,
    check_chunks,
    check_layout,
    check_score,
    check_sequence,
    check_sequences,
    check_states,
    warn_of_rows_without_keys,
)
from lckernels.dtypes import compute_dtype
from lckernels.equivalents import with_equivalents
from lckernels.fields import flat_options, has_offset_only, window_options
from lckernels.ops import attention, chunked, overlap, states
from lckernels.options import AttentionOptions, ExtraTokens, Layout, Score
from lckernels.plan import Plan

__all__ = [
    "chunked_attention",
    "merge_attention_states",
    "overlap_merge",
    "overlap_split",
    "windowed_attention",
]

_DEFAULT_LAYOUT = Layout()
_DEFAULT_SCORE = Score()


@with_equivalents
def windowed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window_size: tuple[int, int] = (-1, -1),
    softmax_scale: float | None = None,
    layout: Layout | None = None,
    score: Score | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention in which a query sees the keys of its window.

    Tensors are (batch, seqlen, heads, head_dim), as in flash-attn; those of torch's
    scaled_dot_product_attention, (batch, heads, seqlen, head_dim), go in as `q.transpose(1, 2)`, a view.

    Query i has key position `p = i + offset` and sees key j when `p - left <= j <= p + right`, subject to
    `layout`. offset defaults to seqlen_k - seqlen_q: the last query is aligned with the last key (bottom
    right). torch's `is_causal=True` aligns the first query with the first key (top left): if seqlen_q differs
    from seqlen_k, `layout=Layout(offset=0)` gives the same. A row that sees no key gives zeros.

    Args:
        q: (batch, seqlen_q, num_heads, head_dim) fp32, bf16, fp16 or fp64; any strides.
        k: (batch, seqlen_k, num_kv_heads, head_dim), q's dtype; num_heads % num_kv_heads == 0.
        v: (batch, seqlen_k, num_kv_heads, head_dim_v), q's dtype.
        window_size: (left, right) in keys, inclusive; -1 removes that bound. Causal attention is (-1, 0).
        softmax_scale: factor of q.k; None (default) means head_dim ** -0.5.
        layout: which keys a query sees besides the window: offset, padding, packing, sinks, chunks.
        score: softcap, relative bias (with gradient) and sink logits (with gradient).
        dropout_p: probability of dropping, 0 <= dropout_p < 1; every backend has the same mask
            (Philox4x32-10).
        return_lse: also return lse.
        backend: name of a backend; None (default) means the first that supports the call.

    Returns:
        out (batch, seqlen_q, num_heads, head_dim_v) in q's dtype, contiguous; with return_lse also
        lse (batch, num_heads, seqlen_q), fp32 (fp64 for fp64), natural log of the softmax denominator,
        differentiable; where a row sees nothing -inf, or its sink logit.

    Raises:
        TypeError: an argument of the wrong type, or one of another library, with its equivalent.
        ValueError: bad input, naming the argument.
        BackendError: no backend supports the call.

    Source: window and offset conventions of flash-attn; sink logits of gpt-oss; sink tokens of StreamingLLM.
    """
    if score is backend is None and type(dropout_p) is float and not dropout_p and has_offset_only(layout):
        offset = None if layout is None else layout.offset
        states = attention.attend_window(q, k, v, window_size, softmax_scale, offset)
        if states is not None:
            return states if return_lse else states[0]
    check_attention(q, k, v, window_size, softmax_scale, dropout_p)
    check_backend(backend)
    if layout is not None:
        check_layout(layout, q, k)
    if score is not None:
        check_score(score, q)
    warn_of_rows_without_keys(q, k, window_size, layout)
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else float(softmax_scale)
    if layout is None and score is None and not dropout_p:
        options = window_options(window_size, scale)
    else:
        seed = None
        if dropout_p:
            bounds = torch.iinfo(torch.int64)
            seed = torch.randint(bounds.min, bounds.max, (1,), dtype=torch.int64, device=q.device)
        layout, score = layout or _DEFAULT_LAYOUT, score or _DEFAULT_SCORE
        options = flat_options(AttentionOptions(window_size, scale, layout, score, dropout_p, seed))
    out, lse = attention.attend(q, k, v, options, backend)
    return (out, lse) if return_lse else out


def overlap_merge(
    chunks: Tensor, plan: Plan, weights: str | Tensor = "triangular", *, backend: str | None = None
) -> Tensor:
    """Weighted mean of overlapping chunks as one sequence: `out[t] = sum_c a_c(t) x_c(t) / sum_c a_c(t)`.

    Args:
        chunks: (num_chunks, chunk_len, dim) fp32, bf16, fp16 or fp64; any strides. Without dim, (num_chunks,
            chunk_len), samples: the result is (total_len,).
        plan: where the chunks' columns land; `plan.total_len` output positions.
        weights: the weight of a chunk at a position. "uniform"; "triangular" (default), which grows with the
            distance to the chunk's edge; "hann", its squared sine; "crop", one chunk per position (the plan's
            keep ranges); or a tensor (num_chunks, chunk_len), >= 0, with gradient. Values of weight zero are
            not read.
        backend: name of a backend; None (default) means the first that supports the call.

    Returns:
        (total_len, dim), contiguous, in chunks' dtype, accumulated in fp32 (fp64 for fp64).

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: bad input, naming the argument; explicit weights on the CPU that are negative, not finite
            or sum to zero at a position (on other devices they are not checked: a sum of zero gives 0).
        BackendError: no backend supports the call.

    Source: overlap-add; the crop rules are those of SLED and of BERT's max-context.
    """
    if isinstance(chunks, Tensor) and chunks.dim() == 2:
        return overlap_merge(chunks[..., None], plan, weights, backend=backend)[..., 0]
    check_chunks(chunks, plan, weights)
    check_backend(backend)
    mode, table = _merge_weights(weights, chunks)
    where = (plan.segments, plan.tile_segments, plan.total_len)
    return overlap.overlap_merge(chunks, table, *where, mode, backend)


def overlap_split(sequence: Tensor, plan: Plan, *, backend: str | None = None) -> Tensor:
    """Cuts one sequence into the plan's chunks; columns outside segments are 0.

    Args:
        sequence: (total_len, dim) fp32, bf16, fp16 or fp64; any strides. Without dim, (total_len,), samples:
            the result is (num_chunks, chunk_len).
        plan: which positions each chunk has.
        backend: name of a backend; None (default) means the first that supports the call.

    Returns:
        (num_chunks, chunk_len, dim), contiguous, in sequence's dtype. Its gradient is the overlap-add.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: bad input, naming the argument.
        BackendError: no backend supports the call.
    """
    if isinstance(sequence, Tensor) and sequence.dim() == 1:
        return overlap_split(sequence[..., None], plan, backend=backend)[..., 0]
    check_sequence(sequence, plan)
    check_backend(backend)
    return overlap.overlap_split(
        sequence, plan.segments, plan.tile_segments, plan.num_chunks, plan.chunk_len, backend
    )


def chunked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: Plan,
    weights: str | Tensor = "triangular",
    *,
    extra: ExtraTokens | None = None,
    softmax_scale: float | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Full attention within each chunk of a sequence, and the overlapping results merged: one sequence again.

    The same as overlap_split of q, k and v, attention within each chunk, and overlap_merge, but no chunk is
    stored in memory. Chunk c sees the positions of its segments in the plan and its extra tokens; columns
    outside the segments do not exist. A position that a chunk has in two columns is two keys.

    An encoder that calls this in each layer does its projections and MLP once per token. For a model with
    absolute positions that is an approximation of the model run on each chunk, where a token's position and
    its states differ from chunk to chunk.

    Args:
        q: (total_len, num_heads, head_dim) fp32, bf16, fp16 or fp64; any strides.
        k: (total_len, num_kv_heads, head_dim), q's dtype; num_heads % num_kv_heads == 0.
        v: (total_len, num_kv_heads, head_dim_v), q's dtype.
        plan: which positions each chunk has; `plan.total_len` is that of q.
        weights: the weight of a chunk at a position, as in overlap_merge.
        extra: tokens that each chunk has besides its segments (special tokens), q's dtype.
        softmax_scale: factor of q.k; None (default) means head_dim ** -0.5.
        backend: name of a backend; None (default) means the first that supports the call.

    Returns:
        out (total_len, num_heads, head_dim_v), contiguous, in q's dtype; with extra also extra_out
        (num_chunks, num_extra, num_heads, head_dim_v). Differentiable in q, k, v, extra and a weights tensor.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: bad input, naming the argument; for weights as in overlap_merge.
        BackendError: no backend supports the call.

    Source: chunks of SLED and of BERT's long inputs, with the merge moved into the attention.
    """
    check_chunked(q, k, v, plan, weights, extra, softmax_scale)
    check_backend(backend)
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else float(softmax_scale)
    mode, table = _merge_weights(weights, q)
    extra_inputs = (None, None, None) if extra is None else extra.tensors()
    where = (plan.segments, plan.tile_segments, plan.num_chunks, plan.chunk_len)
    out, extra_out = chunked.chunked_attention(q, k, v, *extra_inputs, table, *where, mode, scale, backend)
    return out if extra is None else (out, extra_out)


def _merge_weights(weights: str | Tensor, x: Tensor) -> tuple[str, Tensor | None]:
    """The op's mode and its table of explicit weights."""
    explicit = isinstance(weights, Tensor)
    return ("explicit", weights.to(compute_dtype(x.dtype))) if explicit else (weights, None)


def merge_attention_states(
    outs: Sequence[Tensor], lses: Sequence[Tensor], *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Attention over the union of disjoint key sets, from the attention over each.

    `lse = logsumexp_i lse_i`, `out = sum_i exp(lse_i - lse) out_i`, exact up to rounding; weights in fp32.
    At most one state may carry sink logits.

    Args:
        outs: tensors (batch, seqlen_q, num_heads, head_dim), one dtype.
        lses: tensors (batch, num_heads, seqlen_q), fp32 (fp64 for fp64 outs).
        backend: name of a backend; None (default) means the first that supports the call.

    Returns:
        out like outs[0] and lse like lses[0]; where every lse is -inf: 0 and -inf.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: bad input, naming the argument.
        BackendError: no backend supports the call.

    Source: the merge of partial softmaxes in online softmax (Milakov and Gimelshein, 2018).
    """
    check_sequences(outs, lses)
    outs, lses = list(outs), list(lses)
    check_states(outs, lses)
    check_backend(backend)
    return states.merge_attention_states(outs, lses, backend)
