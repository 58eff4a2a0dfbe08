"""Longformer: a window of attention_window // 2 keys on either side, beside tokens with global attention.

One softmax has the keys of the tokens with global attention and those of the window. Queries of these tokens
have projections of their own and see all valid keys. LED's encoder has the same attention.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad
from lckernels.hf.calls import WEIGHTS
from lckernels.hf.family import Family, own_method
from lckernels.hf.global_tokens import GlobalTokens, attend_from_tokens
from lckernels.hf.masks.create import mask_of_keys
from lckernels.hf.masks.key_mask import KeyMask
from lckernels.hf.own_attention import attention_of, dropout_of, projected
from lckernels.hf.pieces import in_pieces
from lckernels.hf.private import INVERTED_MASK
from lckernels.hf.settings import settings_of
from lckernels.hf.warn import warn_once

_META_TOKENS = 4
_PIECE_ROWS = 512  # per thread: their products take as long as those of all tokens


def self_attention(
    module: nn.Module,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    is_index_masked: Tensor | None = None,
    is_index_global_attn: Tensor | None = None,
    is_global_attn: bool | None = None,
    output_attentions: bool = False,
) -> tuple[Tensor, ...]:
    """The layer's forward; its mask is (batch, seqlen), < 0 for padding and > 0 for global tokens.

    As in the model, rows of padding are zero before the output projection.
    """
    if output_attentions:
        warn_once(f"{WEIGHTS}; these calls run as the model's own attention")
        own = own_method(module, "forward", self_attention)
        masks = attention_mask, is_index_masked, is_index_global_attn, is_global_attn
        return own(module, hidden_states, *masks, output_attentions)
    q, k, v = projected(module, hidden_states, module.num_heads, "query", "key", "value")
    valid = ~is_index_masked
    options = {
        "softmax_scale": module.head_dim**-0.5,
        "dropout_p": dropout_of(module),
        "backend": settings_of(module).backend,
    }
    # The dry run on the meta device has no values.
    some = is_global_attn and not hidden_states.is_meta
    tokens = GlobalTokens.of(is_index_global_attn) if some else None
    mask, other_keys = _visible_keys(module, valid, is_index_global_attn, tokens)
    attention = attention_of(module)
    out, _ = attention(
        module, *(x.transpose(1, 2) for x in (q, k, v)), mask, dropout=options["dropout_p"],
        scaling=options["softmax_scale"], global_tokens=is_global_attn,
        **({"other_keys": partial(tokens.keys, q, k, v, **options)} if other_keys else {}),
    )  # fmt: skip
    out = _zeroed(out.flatten(2), is_index_masked)
    if tokens is not None:
        (q,) = projected(module, tokens.of_rows(hidden_states), module.num_heads, "query_global")
        layers = module.key_global, module.value_global
        new = attend_from_tokens(q, hidden_states, valid, *layers, **options)
        out = tokens.replaced(out, new.flatten(2))
    return (out,)


def _visible_keys(
    module: nn.Module, valid: Tensor, is_global: Tensor, tokens: GlobalTokens | None
) -> tuple[KeyMask, bool]:
    """The mask of a call, and whether the tokens' keys are not among its keys."""
    window = (module.one_sided_attn_window_size,) * 2
    if tokens is None:
        return mask_of_keys(valid, valid.shape[1], window), False
    if torch.compiler.is_compiling() or not tokens.are_first(valid):
        return mask_of_keys(valid & ~is_global, valid.shape[1], window), True
    # Sink tokens of the kernel are left of the window, as these are for all other tokens.
    mask = mask_of_keys(valid, valid.shape[1], window)
    visible = replace(mask.visible, sink_tokens=tokens.positions.shape[1])
    return KeyMask.create(tuple(mask.shape), mask.device, window, visible), False


def _zeroed(out: Tensor, hidden: Tensor) -> Tensor:
    """out (batch, seqlen, dim) with zeros where `hidden`, (batch, seqlen), is True; may change out."""
    traced = torch.compiler.is_compiling() or out.is_meta
    if not traced and not hidden.any():
        return out
    if torch.is_grad_enabled() and out.requires_grad:
        return out.masked_fill(hidden[..., None], 0)
    return out.masked_fill_(hidden[..., None], 0)


def checked_forward(
    module: nn.Module,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    global_attention_mask: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The model's forward, after a check of global_attention_mask."""
    given = input_ids if input_ids is not None else kwargs.get("inputs_embeds")
    if global_attention_mask is not None and given is not None:
        shape, expected = tuple(global_attention_mask.shape), tuple(given.shape[:2])
        # The model broadcasts it.
        pairs = zip(reversed(shape), reversed(expected), strict=False)
        if not shape or len(shape) > 2 or any(size not in (1, wanted) for size, wanted in pairs):
            allowed = f"expected (batch, seqlen) = {expected}"
            raise bad("global_attention_mask", f"shape {shape}", allowed)
    own = _with_masks_of_one_query(own_method(module, "forward", checked_forward))
    return own(module, input_ids, attention_mask, global_attention_mask, *args, **kwargs)


def _with_masks_of_one_query(forward: FunctionType) -> FunctionType:
    """The model's forward with a mask of one query; its own has seqlen equal ones, of which it reads one."""
    known = {name: function for name, function in _MASKS.items() if name in forward.__code__.co_names}
    names = {name: partial(function, forward.__globals__[name]) for name, function in known.items()}
    changed = FunctionType(
        forward.__code__, {**forward.__globals__, **names}, forward.__name__, forward.__defaults__,
        forward.__closure__,
    )  # fmt: skip
    changed.__kwdefaults__ = forward.__kwdefaults__
    return changed


def _bidirectional_mask(
    own: Callable, config: Any, inputs_embeds: Tensor, attention_mask: Tensor, **options: Any
) -> Tensor:
    """Longformer's mask, as for eager attention: numbers to add, (batch, 1, 1, seqlen)."""
    hidden = ~attention_mask.bool()[:, None, None]
    return torch.zeros_like(hidden, dtype=inputs_embeds.dtype).masked_fill(
        hidden, torch.finfo(inputs_embeds.dtype).min
    )


def _inverted_mask(own: Callable, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """LED's mask, (batch, 1, 1, seqlen)."""
    return own(mask, dtype, tgt_len=1)


# By the names in the models' modules.
_MASKS = {
    "create_bidirectional_mask": _bidirectional_mask,
    INVERTED_MASK: _inverted_mask,
}


def _feed_forward(module: nn.Module, attn_output: Tensor) -> Tensor:
    """The layer's feed-forward, without gradients in pieces, so that its wide activations are small."""
    own = partial(own_method(module, "ff_chunk", _feed_forward), module)
    return own(attn_output) if _is_seen(module) else in_pieces(own, attn_output, _PIECE_ROWS)


def _is_seen(module: nn.Module) -> bool:
    """Whether a hook is on a module of the layer's feed-forward, which would see the pieces."""
    inside = (m for part in (module.intermediate, module.output) for m in part.modules())
    return any(m._forward_hooks or m._forward_pre_hooks for m in inside)


def _replacements(module: nn.Module) -> dict[str, Any]:
    name = type(module).__name__
    if name == "LongformerSelfAttention":
        return {"forward": self_attention}
    if name == "LongformerLayer":
        return {"ff_chunk": _feed_forward}
    if name == "LongformerModel":
        return {"forward": checked_forward}
    return {}


def _dry_inputs(model: nn.Module) -> dict[str, Tensor]:
    """Inputs with a mask of global tokens, which some heads else compute from the values of input_ids."""
    shape = (2, 1, _META_TOKENS) if "MultipleChoice" in type(model).__name__ else (2, _META_TOKENS)
    ids = torch.zeros(shape, dtype=torch.long, device="meta")
    ones = torch.ones_like(ids)
    return {"input_ids": ids, "attention_mask": ones, "global_attention_mask": ones}


FAMILY = Family(name="longformer", replacements=_replacements, own_attention=True, dry_inputs=_dry_inputs)
