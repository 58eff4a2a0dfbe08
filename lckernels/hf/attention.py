"""The attention function of transformers' AttentionInterface that runs on lckernels."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.utils.output_capturing import _active_collector

from lckernels.functional import chunked_attention, overlap_merge, overlap_split, windowed_attention
from lckernels.hf.dense import dense_attention, is_causal
from lckernels.hf.mask import ChunkMask, KeyMask, Mask, NotServed, Window
from lckernels.hf.mask_function import make_mask, say_once
from lckernels.hf.settings import (
    PLAIN,
    LayerSettings,
    kind_of_mask,
    kind_without_mask,
    resolve,
    settings_of,
)
from lckernels.options import ExtraTokens, Layout, Score

# Without flash, sdpa or a slash in it: transformers reads meaning into such names.
NAME = "lckernels"
# Flash attention's arguments for the texts of a packed row.
_TEXTS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
# What changes the result and is not served.
_NOT_SERVED = ("sinks", "indices", "block_indices", "head_mask", "layer_head_mask")


def register() -> None:
    """Makes `attn_implementation="lckernels"` known to transformers; no model changes by itself."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, make_mask)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of one layer, as transformers calls it.

    query (batch, num_heads, seqlen_q, head_dim), key and value (batch, num_kv_heads, seqlen_k, ...), views of
    any strides; the result is (batch, seqlen_q, num_heads, head_dim_v), contiguous.

    A KeyMask runs as windowed_attention, a ChunkMask as chunked_attention; no mask means causal or full, as
    `is_causal` says. Any other mask, position_bias and a request for the weights run densely. Raises
    NotServed for options that would change the result and are not served.
    """
    check_call(query, key, attention_mask, options)
    if isinstance(attention_mask, ChunkMask):
        return _chunked(query, key, value, attention_mask, dropout, scaling), None
    settings = settings_of(module)
    weights = _wants_weights(options)
    if not weights and not why_dense(query, key, attention_mask, options):
        where = _visible(module, query, key, attention_mask, settings, options)
        if where is not None:
            window, layout = where
            q, k, v = (x.transpose(1, 2) for x in (query, key, value))
            score = Score(softcap=options.get("softcap") or 0.0, sink_logits=options.get("s_aux"))
            out = windowed_attention(
                q, k, v, window_size=window, softmax_scale=scaling, layout=layout, score=score,
                dropout_p=dropout, backend=settings.backend,
            )  # fmt: skip
            return out, None
    if _has_texts(options) and not _is_packed(attention_mask):
        raise NotServed(
            "cu_seq_lens_q: got a tensor in a call that runs densely, where its texts would mix; "
            "expected position_ids that restart with each text, and no cache"
        )
    if weights:
        say_once("output_attentions needs all weights; these calls run as eager attention")
    elif attention_mask is not None and not isinstance(attention_mask, Mask):
        say_once("a dense 4-D mask runs as dense attention")
    if isinstance(attention_mask, KeyMask):
        attention_mask = _as_dense(attention_mask, query, key)
    return dense_attention(module, query, key, value, attention_mask, dropout, scaling, weights, **options)


def check_call(query: Tensor, key: Tensor, attention_mask: Tensor | None, options: dict[str, Any]) -> None:
    """Raises NotServed for options that would change the result and are not served, and for a mask of other
    sizes; TypeError for a bias where chunks are merged in each layer."""
    for name in _NOT_SERVED:
        if options.get(name) is not None:
            got = type(options[name]).__name__
            raise NotServed(f"{name}: got {got}; attn_implementation={NAME!r} does not serve it yet")
    sinks = options.get("s_aux")
    if sinks is not None and tuple(sinks.shape) != (query.shape[1],):
        raise NotServed(f"s_aux: got shape {tuple(sinks.shape)}; expected (num_heads,) = ({query.shape[1]},)")
    if isinstance(attention_mask, KeyMask):
        got, sizes = tuple(attention_mask.shape), _sizes(query, key)
        if any(x not in (1, size) for x, size in zip(got, sizes, strict=True)):
            raise NotServed(f"attention_mask: got shape {got}; the layer needs {sizes}")
    if isinstance(attention_mask, ChunkMask) and options.get("position_bias") is not None:
        raise TypeError("model: it adds a relative position bias; merge='layer' needs absolute positions")


def why_dense(query: Tensor, key: Tensor, attention_mask: Tensor | None, options: dict[str, Any]) -> str:
    """Why a call runs as dense attention; empty if lckernels can run it."""
    if options.get("position_bias") is not None:
        return "it adds a relative position bias"
    if isinstance(attention_mask, KeyMask) and tuple(attention_mask.shape) != _sizes(query, key):
        return "its mask has other sizes than its keys and is broadcast"
    if attention_mask is not None and not isinstance(attention_mask, Mask):
        return "it brings a dense mask of its own"
    return ""


def _as_dense(mask: KeyMask, query: Tensor, key: Tensor) -> Tensor:
    """The dense mask; one that is broadcast is added, as eager attention does: its rows may see nothing."""
    if tuple(mask.shape) == _sizes(query, key):
        return mask.dense()
    return torch.where(mask.dense(), 0.0, torch.finfo(query.dtype).min).to(query.dtype)


def _sizes(query: Tensor, key: Tensor) -> tuple[int, ...]:
    return query.shape[0], 1, query.shape[2], key.shape[2]


def _wants_weights(options: dict[str, Any]) -> bool:
    if options.get("output_attentions"):
        return True
    if torch.compiler.is_compiling():  # transformers' collector cannot be asked then
        return False
    asked = _active_collector.get() or {}
    return any(name.endswith("attentions") for name in asked)


def _visible(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: KeyMask | None,
    settings: LayerSettings,
    options: dict[str, Any],
) -> tuple[Window, Layout] | None:
    """Window and layout of the call; None if only the dense mask knows."""
    if mask is None:
        return _without_mask(module, query, key, settings, options)
    if settings.kind is None and mask.window is not None and settings is not PLAIN:
        settings.kind = kind_of_mask(mask)
    found = resolve(mask, settings)
    if found is None or _is_packed(mask) or not _has_texts(options):
        return found
    return found[0], _packed(found[1], key.shape[2], options)


def _without_mask(
    module: nn.Module, query: Tensor, key: Tensor, settings: LayerSettings, options: dict[str, Any]
) -> tuple[Window, Layout]:
    """As transformers reads it: causal layers are aligned at the first key, a single query sees every key."""
    seqlen_q, seqlen_k = query.shape[2], key.shape[2]
    kind = kind_without_mask(is_causal(module, options), seqlen_q, seqlen_k)
    layout = Layout(offset=0 if seqlen_q > 1 else seqlen_k - 1)
    if _has_texts(options):
        layout = _packed(layout, seqlen_k, options)
    narrow = settings.narrowed(kind)
    if narrow is not kind and settings.sink_tokens:
        layout = replace(layout, sink_tokens=settings.sink_tokens)
    return narrow.window, layout


def _has_texts(options: dict[str, Any]) -> bool:
    return any(options.get(name) is not None for name in _TEXTS[:2])


def _is_packed(mask: Tensor | None) -> bool:
    """Whether the mask itself keeps texts apart."""
    return isinstance(mask, KeyMask) and mask.visible.segment_ids is not None


def _packed(layout: Layout, seqlen_k: int, options: dict[str, Any]) -> Layout:
    """The texts of a batch of one row, by cu_seq_lens_q and cu_seq_lens_k, (num_texts + 1,) int32.

    Windows, chunks and sink tokens count in each text; padding stays hidden, as a mask of the whole row.
    """
    if isinstance(layout.offset, Tensor) or layout.offset:
        raise NotServed("cu_seq_lens_q: got a tensor beside keys of a cache; expected an empty cache or none")
    valid = layout.kv_mask
    if layout.kv_start is not None:
        if layout.chunk:
            raise NotServed("cu_seq_lens_q: got a tensor beside padding and chunks; expected no padding")
        if valid is None:
            at = torch.arange(seqlen_k, device=layout.kv_start.device)
            valid = (at >= layout.kv_start[:, None]) & (at < layout.kv_end[:, None])
    q, k, *longest = (options.get(name) for name in _TEXTS)
    longest_q, longest_k = (x if isinstance(x, int) else None for x in longest)
    return replace(
        layout, kv_start=None, kv_end=None, kv_mask=valid, chunk_origin=0, cu_seqlens_q=q, cu_seqlens_k=k,
        max_seqlen_q=longest_q, max_seqlen_k=longest_k,
    )  # fmt: skip


def _chunked(
    query: Tensor, key: Tensor, value: Tensor, mask: ChunkMask, dropout: float, scaling: float | None
) -> Tensor:
    """(1, seqlen, num_heads, head_dim_v)."""
    (q, k, v), extra = mask.inputs(query, key, value)
    if dropout:
        out, extra_out = _with_dropout(q, k, v, extra, mask, dropout, scaling)
    else:
        result = chunked_attention(q, k, v, mask.plan, mask.weights, extra=extra, softmax_scale=scaling)
        out, extra_out = (result, None) if extra is None else result
    mask.on_layer()
    return (out if extra_out is None else torch.cat([out, extra_out.flatten(0, 1)]))[None]


def _with_dropout(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra: ExtraTokens | None,
    mask: ChunkMask,
    dropout: float,
    scaling: float | None,
) -> tuple[Tensor, Tensor | None]:
    """chunked_attention with dropout, which the op has not: its definition, step by step."""
    plan = mask.plan
    columns = [overlap_split(x.flatten(1), plan).unflatten(2, x.shape[1:]) for x in (q, k, v)]
    seen = overlap_split(q.new_ones(plan.total_len, 1), plan)[:, :, 0] > 0
    if extra is not None:
        pairs = zip(columns, extra.tensors(), strict=True)
        columns = [torch.cat(pair, dim=1) for pair in pairs]
        seen = torch.cat([seen, seen.new_ones(extra.q.shape[:2])], dim=1)
    outs = windowed_attention(*columns, softmax_scale=scaling, layout=Layout(kv_mask=seen), dropout_p=dropout)
    out = overlap_merge(outs[:, : plan.chunk_len].flatten(2), plan, mask.weights)
    return out.unflatten(1, outs.shape[2:]), None if extra is None else outs[:, plan.chunk_len :]
