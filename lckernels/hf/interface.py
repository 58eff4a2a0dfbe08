"""The attention function and the name that lckernels registers in transformers' attention interface."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from lckernels.functional import merge_attention_states, windowed_attention
from lckernels.hf import position_bias
from lckernels.hf.cache.rotation import attend_in_cache_places, is_full
from lckernels.hf.calls import OWN_MASK, WEIGHTS, Chunked, Served, classify, mask_sizes
from lckernels.hf.chunked import attention_in_chunks
from lckernels.hf.dense import dense_attention
from lckernels.hf.family import packs_sequences
from lckernels.hf.masks.create import create_mask
from lckernels.hf.masks.descriptor import NotServed
from lckernels.hf.masks.key_mask import KeyMask, layout_of
from lckernels.hf.masks.packing import has_cu_seqlens
from lckernels.hf.private import collected_outputs
from lckernels.hf.settings import PLAIN, settings_of
from lckernels.hf.warn import warn_once
from lckernels.ops.attention import attend_window

# Without "flash", "sdpa" or a slash: transformers derives options from such names.
NAME = "lckernels"
# The name in a module that makes one call for a packed row where the name has "flash", else one a sequence.
PACKED = "lckernels_flash"
# Attention of a layer's queries to other keys: () -> out (batch, seqlen_q, num_heads, head_dim_v), lse.
OtherKeys = Callable[[], tuple[Tensor, Tensor]]
_WARNINGS = {
    WEIGHTS: f"{WEIGHTS}; these calls run as eager attention",
    OWN_MASK: "a dense 4-D mask runs as dense attention",
}


def register() -> None:
    """Registers lckernels' names in transformers; no model changes. Importing lckernels.hf calls it."""
    for name in (NAME, PACKED):
        AttentionInterface.register(name, attention)
        AttentionMaskInterface.register(name, create_mask)


def packed_name() -> str:
    """The name in a module that packs sequences: each has weights of its own where the call returns them."""
    return NAME if returns_weights({}) else PACKED


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    other_keys: OtherKeys | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of one layer, with the signature that transformers requires.

    A KeyMask runs as windowed_attention, a ChunkMask as chunked_attention; a call without a mask is causal or
    full, by `is_causal`. Any other mask, a position_bias and a request for the weights run as dense
    attention.

    Args:
        module: the attention layer.
        query: (batch, num_heads, seqlen_q, head_dim), any strides.
        key: (batch, num_kv_heads, seqlen_k, head_dim), any strides.
        value: (batch, num_kv_heads, seqlen_k, head_dim_v), any strides.
        attention_mask: what `create_mask` returns, a dense mask, or None.
        dropout: probability; 0 outside training.
        scaling: of the scores; default: head_dim ** -0.5.
        other_keys: attention to further keys, which one softmax has together with `key`; of a replacement
            of a family, with a KeyMask.
        **options: of transformers, such as softcap, s_aux and cu_seq_lens_q; options that do not change the
            result are ignored.

    Returns:
        out (batch, seqlen_q, num_heads, head_dim_v), contiguous; the weights or None.

    Raises:
        NotServed: an option or a mask that is not supported and would change the result.
    """
    settings = settings_of(module)
    weights = returns_weights(options) and not _is_packed(module, options)
    call = classify(module, query, key, attention_mask, options, settings, weights)
    if isinstance(call, Served):
        if settings.kind is None and settings is not PLAIN and attention_mask is not None:
            settings.kind = call.kind
        if settings.rotation is not None and is_full(query, attention_mask, call.layout, settings):
            if call.moved is not None:
                raise NotServed(
                    "attention_mask: got a mask with PEFT's virtual tokens, with positions='cache'; "
                    "expected no mask, or positions='absolute'"
                )
            return attend_in_cache_places(
                query, key, value, attention_mask, call, settings, scaling, dropout
            ), None  # fmt: skip
        return served_attention(query, key, value, call, dropout, scaling, settings.backend, other_keys), None
    if other_keys is not None:
        raise NotServed("other_keys: got a function in a call that does not run as windowed_attention")
    if weights and settings.narrows:
        raise NotServed(
            "output_attentions: got True under a window of lckernels.patch; the weights are those of eager "
            "attention, which has no window. Call lckernels.unpatch before"
        )
    if isinstance(call, Chunked):
        return attention_in_chunks(query, key, value, call.mask, dropout, scaling, settings.backend), None
    if call.reason in _WARNINGS:
        warn_once(_WARNINGS[call.reason])
    bias = options.get("position_bias")
    if position_bias.is_by_distance(bias):
        offset = _offset(attention_mask, query, key)
        options["position_bias"] = position_bias.dense(bias, query.shape[2], key.shape[2], offset)
    if isinstance(attention_mask, KeyMask):
        attention_mask = _dense_mask(attention_mask, query, key)
    return dense_attention(module, query, key, value, attention_mask, dropout, scaling, weights, **options)


def served_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    call: Served,
    dropout: float,
    scaling: float | None,
    backend: str | None,
    other_keys: OtherKeys | None = None,
) -> Tensor:
    """windowed_attention of tensors (batch, heads, seqlen, head_dim), as `classify` describes the call.

    With other_keys it is merged with their attention.
    """
    if call.moved is not None:
        moved, call = call.moved, call._replace(moved=None)
        query, key, value = moved.inputs(query, key, value)
        return moved.output(served_attention(query, key, value, call, dropout, scaling, backend, other_keys))
    if call.window_only and backend is None and not dropout:
        offset = call.layout.offset
        states = attend_window(query, key, value, call.window, scaling, offset, heads_first=True)
        if states is not None:
            return states[0]
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    attend = partial(
        windowed_attention, q, k, v, window_size=call.window, softmax_scale=scaling, layout=call.layout,
        score=call.score, dropout_p=dropout, backend=backend,
    )  # fmt: skip
    if other_keys is None:
        return attend()
    outs, lses = zip(attend(return_lse=True), other_keys(), strict=True)
    return merge_attention_states(outs, lses, backend=backend)[0]


def returns_weights(options: dict[str, Any]) -> bool:
    """Whether the call returns the attention weights."""
    if options.get("output_attentions"):
        return True
    if torch.compiler.is_dynamo_compiling():  # it cannot trace transformers' collector
        return False
    names = collected_outputs()
    return bool(names) and any(name.endswith("attentions") for name in names)


def _is_packed(module: nn.Module, options: dict[str, Any]) -> bool:
    """Whether a layer has packed its sequences, as it does where nothing collects the weights."""
    return packs_sequences(type(module)) and has_cu_seqlens(options)


def _offset(mask: Tensor | None, query: Tensor, key: Tensor) -> int | Tensor:
    """The key position of the first query."""
    if isinstance(mask, KeyMask):
        return layout_of(mask).offset
    seqlen_q, seqlen_k = query.shape[2], key.shape[2]
    if mask is None:
        return 0 if seqlen_q > 1 else seqlen_k - 1
    if seqlen_q != seqlen_k:
        raise NotServed(
            f"attention_mask: got a dense mask of {seqlen_q} queries and {seqlen_k} keys in a layer with a "
            "relative position bias; expected as many queries as keys, or a 2-D mask"
        )
    return 0


def _dense_mask(mask: KeyMask, query: Tensor, key: Tensor) -> Tensor:
    """The dense mask; a broadcast mask, which may have empty rows, becomes numbers to add, as in eager."""
    if tuple(mask.shape) == mask_sizes(query, key):
        return mask.dense()
    return torch.where(mask.dense(), 0.0, torch.finfo(query.dtype).min).to(query.dtype)
