"""What happens to a call of attention: the one decision of the forward, the dry run and LongEncoder.

`classify` returns Served, Chunked or Dense, and raises NotServed for a call whose result would differ.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lckernels.fields import has_offset_only
from lckernels.hf import position_bias
from lckernels.hf.family import relative_bias, unsupported_reason
from lckernels.hf.masks.chunk_mask import ChunkMask
from lckernels.hf.masks.descriptor import NotServed
from lckernels.hf.masks.key_mask import KeyMask, kind_of_mask, layout_of
from lckernels.hf.masks.kinds import CAUSAL, FAR, FULL, Kind, Window, is_causal, kind_without_mask
from lckernels.hf.masks.moved import Moved, with_padding_first
from lckernels.hf.masks.packing import CU_SEQLENS, has_cu_seqlens, has_segments, packed_layout
from lckernels.hf.settings import PLAIN, LayerSettings
from lckernels.hf.virtual_tokens import virtual_tokens_of_call, with_prefix_keys
from lckernels.options import Layout, Score

WEIGHTS = "output_attentions requires all attention weights"
BIAS = "it adds a relative position bias"
BROADCAST = "its mask has other sizes than its keys and is broadcast"
OWN_MASK = "it uses a dense mask of its own"
NARROWED = "it has a window from lckernels.patch"
TRACED = "its mask was created under torch.compile, without a patch"
# Options that change the result and are not supported.
_UNSUPPORTED = ("sinks", "indices", "block_indices", "head_mask", "layer_head_mask")
# All options that change the result.
_CHANGING = frozenset((*_UNSUPPORTED, *CU_SEQLENS, "softcap", "s_aux", "position_bias"))


class Served(NamedTuple):
    """A call that runs as windowed_attention.

    Attributes:
        kind: the layer's kind of attention, before a patch's window.
        window: window_size of windowed_attention.
        layout: of windowed_attention.
        score: of windowed_attention; None where the scores have no options.
        window_only: whether an offset and the window are all that the call has as options.
        moved: the order of keys and queries that the layout is for; None: theirs.
    """

    kind: Kind
    window: Window
    layout: Layout
    score: Score | None
    window_only: bool
    moved: Moved | None = None


@dataclass(frozen=True)
class Chunked:
    """A call that runs as chunked_attention.

    Attributes:
        mask: plan, weights and extra tokens.
    """

    mask: ChunkMask


@dataclass(frozen=True)
class Dense:
    """A call that runs as dense attention.

    Attributes:
        reason: why, as the end of a sentence about the model.
    """

    reason: str


def classify(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    options: dict[str, Any],
    settings: LayerSettings = PLAIN,
    weights: bool = False,
    *,
    any_length: bool = False,
) -> Served | Chunked | Dense:
    """How a call of attention runs.

    Args:
        module: the attention layer.
        query: (batch, num_heads, seqlen_q, head_dim).
        key: (batch, num_kv_heads, seqlen_k, head_dim).
        mask: a descriptor, a dense mask, or None.
        options: the keyword arguments of the call.
        settings: of the layer.
        weights: whether the call returns the attention weights.
        any_length: whether the answer must hold for calls of any length, as in a dry run.

    Raises:
        NotServed: the call has an unsupported option or mask, and the result would differ.
        TypeError: a relative position bias, or a window of a patch, where chunks are merged in each layer.
    """
    # Inline: a function takes 0.1 us, and some us in a step of generation, whose weights fill the caches.
    is_shared = (
        type(mask) is KeyMask
        and not (weights or any_length or settings.cross or torch.compiler.is_dynamo_compiling())
        and _CHANGING.isdisjoint(options)
    )
    sizes = query.shape[0], 1, query.shape[2], key.shape[2]
    shared = (sizes, settings.window, settings.sink_tokens, settings.window is None or settings.narrows)
    if is_shared and mask.call is not None and mask.call[0] == shared:
        return mask.call[1]
    call = _classify(module, query, key, mask, options, settings, weights, any_length)
    # Such a call depends on the mask and the patch: it is that of every layer with this mask.
    if is_shared and mask.window is not None and isinstance(call, Served) and tuple(mask.shape) == sizes:
        mask.call = shared, call
    return call


def _classify(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    options: dict[str, Any],
    settings: LayerSettings,
    weights: bool,
    any_length: bool,
) -> Served | Chunked | Dense:
    if isinstance(mask, KeyMask) and mask.hides_nothing and mask.shape[3] < key.shape[2]:
        # transformers omits such a mask, and a layer's cache, as in prefix tuning, may have keys before it.
        whole = KeyMask.create(mask_sizes(query, key), mask.device, mask.window, layout_of(mask))
        if settings.window is not None:
            whole.virtual_tokens = virtual_tokens_of_call(mask, settings)
        mask = whole
    _check_supported(query, key, mask, options)
    if any_length and (reason := unsupported_reason(module)):
        raise NotServed(f"model: {reason}")
    if isinstance(mask, ChunkMask):
        if settings.window is not None:
            raise TypeError(f"model: {NARROWED}; merge='layer' requires attention to whole chunks")
        return Chunked(mask)
    call = Dense(WEIGHTS) if weights else _served_or_dense(module, query, key, mask, options, settings)
    if isinstance(call, Dense) and has_cu_seqlens(options) and not has_segments(mask):
        raise NotServed(
            "cu_seq_lens_q: got a tensor in a call that runs as dense attention, which would mix its "
            "sequences; expected position_ids that restart with each sequence, and no cache"
        )
    return call


def _check_supported(query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]) -> None:
    for name in _UNSUPPORTED:
        if options.get(name) is not None:
            got = type(options[name]).__name__
            raise NotServed(f"{name}: got {got}; attn_implementation='lckernels' does not support it")
    sinks = options.get("s_aux")
    if sinks is not None and tuple(sinks.shape) != (query.shape[1],):
        raise NotServed(f"s_aux: got shape {tuple(sinks.shape)}; expected (num_heads,) = ({query.shape[1]},)")
    if isinstance(mask, KeyMask):
        got, sizes = tuple(mask.shape), mask_sizes(query, key)
        if got != sizes and any(x not in (1, size) for x, size in zip(got, sizes, strict=True)):
            raise NotServed(f"attention_mask: got shape {got}; expected {sizes}")
    if isinstance(mask, ChunkMask) and options.get("position_bias") is not None:
        raise TypeError(f"model: {BIAS}; merge='layer' requires absolute positions")


def _served_or_dense(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: KeyMask | None,
    options: dict[str, Any],
    settings: LayerSettings,
) -> Served | Dense:
    score = _score(module, options)
    if isinstance(score, Dense):
        return score
    if isinstance(mask, KeyMask) and tuple(mask.shape) != mask_sizes(query, key):
        return Dense(BROADCAST)
    if mask is not None and not isinstance(mask, KeyMask):
        return Dense(OWN_MASK)
    found = _without_mask(module, query, key, options) if mask is None else _with_mask(mask, settings)
    if found is None:
        return Dense(TRACED)
    kind, layout = found
    if settings.cross:
        kind = replace(kind, cross=True)
    virtual = 0 if settings.window is None else virtual_tokens_of_call(mask, settings)
    if virtual:
        kind, layout = with_prefix_keys(kind, layout, virtual, mask_sizes(query, key), settings)
    narrow, moved = settings.narrowed(kind), None
    if narrow is not kind and _sees_all(query, layout, narrow, settings.sink_tokens):
        narrow = kind
    elif narrow is not kind:
        if virtual and layout.kv_mask is not None:
            layout, moved = with_padding_first(layout, query.shape[2])
        if settings.sink_tokens:
            layout = replace(layout, sink_tokens=settings.sink_tokens)
    if has_cu_seqlens(options) and not has_segments(mask):
        layout = packed_layout(layout, key.shape[2], options)
        kind = replace(kind, packed=True)
    window_only = score is None and has_offset_only(layout)
    return Served(kind, narrow.window, layout, score, window_only, moved)


def _sees_all(query: Tensor, layout: Layout, kind: Kind, sink_tokens: int) -> bool:
    """Whether a causal window and the sink tokens leave no key out, as in a step with a rolling cache."""
    if kind.window[1] != 0 or not isinstance(layout.offset, int) or torch.compiler.is_compiling():
        return False
    return layout.offset + query.shape[2] - 1 - kind.window[0] <= sink_tokens


def mask_sizes(query: Tensor, key: Tensor) -> tuple[int, ...]:
    """The shape of the call's mask, (batch, 1, seqlen_q, seqlen_k)."""
    return query.shape[0], 1, query.shape[2], key.shape[2]


def _score(module: nn.Module, options: dict[str, Any]) -> Score | Dense | None:
    """The score of windowed_attention; Dense for a bias that it cannot represent."""
    softcap, sinks = options.get("softcap") or 0.0, options.get("s_aux")
    bias = options.get("position_bias")
    if bias is None:
        return Score(softcap=softcap, sink_logits=sinks) if softcap or sinks is not None else None
    table = position_bias.table(bias) if position_bias.is_by_distance(bias) else relative_bias(module, bias)
    if table is None:
        return Dense(BIAS)
    return Score(softcap=softcap, rel_bias=table[0], bias_center=table[1], sink_logits=sinks)


def _without_mask(
    module: nn.Module, query: Tensor, key: Tensor, options: dict[str, Any]
) -> tuple[Kind, Layout]:
    """By transformers' rule: causal layers are aligned at the first key, a single query sees every key."""
    seqlen_q, seqlen_k = query.shape[2], key.shape[2]
    kind = kind_without_mask(is_causal(module, options), seqlen_q, seqlen_k)
    return kind, Layout(offset=0 if seqlen_q > 1 else seqlen_k - 1)


def _with_mask(mask: KeyMask, settings: LayerSettings) -> tuple[Kind, Layout] | None:
    """Kind and layout of a mask; None for a traced mask that the layer's kind does not complete."""
    layout, kind = layout_of(mask), settings.kind
    if mask.window is not None:
        kind = kind_of_mask(mask)
    elif kind is None or kind.cross or (kind.window[1] == 0) != mask.causal:
        return None
    else:
        full = kind.window in (FULL, CAUSAL) and not kind.chunk
        size = FAR if full else kind.chunk or max(kind.window[0], kind.window[1] - 1) + mask.causal
        if mask.local_size is not None and min(mask.local_size, FAR) != size:
            return None
        if layout.segment_ids is None:
            layout = replace(layout, chunk=kind.chunk)
        elif kind.chunk:  # the traced segments end where a chunk ends
            kind = Kind(CAUSAL)
    if not layout.chunk and (isinstance(layout.chunk_origin, Tensor) or layout.chunk_origin):
        layout = replace(layout, chunk_origin=0)
    return kind, layout
