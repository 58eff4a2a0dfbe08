"""Rotary positions counted within the KV cache, as StreamingLLM counts them.

A query and the keys of its window have the distance that they have in the sequence. The distance to a sink
token stops growing when the cache is full: it is that of their places in the cache. A query is rotated back
by the difference for the sink tokens, and one softmax has both parts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lckernels.checks import bad
from lckernels.fields import has_offset_only
from lckernels.functional import merge_attention_states, windowed_attention
from lckernels.hf.cache.convert import can_roll
from lckernels.hf.calls import Served
from lckernels.hf.family import learned_positions, rotation_of
from lckernels.hf.masks.descriptor import NotServed
from lckernels.hf.masks.key_mask import KeyMask
from lckernels.hf.masks.kinds import Window
from lckernels.hf.settings import LayerSettings
from lckernels.ops.attention import attend_window
from lckernels.options import Layout
from lckernels.rope_types import depends_on_length


@dataclass
class Rotation:
    """The rotation by which an attention layer gives its queries and keys positions.

    Attributes:
        rotary: the model's rotary embedding.
        apply: the function that rotates, as in Family.
        layer_type: of the layer, where the embedding has several.
    """

    rotary: nn.Module
    apply: Callable
    layer_type: str | None

    def angles(self, x: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of a rotation by `distance` (batch or 1, seqlen) positions, in at least fp32."""
        wide = x.new_empty(0, dtype=torch.promote_types(x.dtype, torch.float32))
        cos, sin = self.rotary(wide, distance, *([] if self.layer_type is None else [self.layer_type]))
        # The embedding's scale of the scores is in the queries already.
        scale = (cos.square() + sin.square()).sqrt()
        return cos / scale, sin / scale

    def turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (batch, num_heads, seqlen, head_dim), rotated further by angles."""
        size, wide = cos.shape[-1], x.to(cos.dtype)
        turned = self.apply(wide[..., :size], wide[..., :size], cos, sin)[0]
        whole = turned if size == x.shape[-1] else torch.cat([turned, wide[..., size:]], dim=-1)
        return whole.to(x.dtype)


def set_rotations(model: nn.Module, settings: Mapping[nn.Module, LayerSettings]) -> None:
    """Gives the layers that a window changes the rotation for positions="cache".

    Raises:
        ValueError: a layer whose positions are not known to be rotary or learned ones.
    """
    learned = any(learned_positions(module) for module in model.modules())
    known = [own for own in settings.values() if own.window is not None and own.kind is not None]
    if known and not any(map(can_roll, known)):
        got = "'cache' for a model without causal layers that a window narrows"
        raise bad("positions", got, "expected 'absolute'")
    for name, module in model.named_modules():
        own = settings.get(module)
        if own is None or own.window is None or (own.kind is not None and not can_roll(own)):
            continue
        known, apply = rotation_of(module)
        if not (known or learned):
            allowed = "'cache' requires rotary or learned positions that lckernels.hf.families has"
            raise bad("positions", f"'cache' for {name} of class {type(module).__name__}", allowed)
        own.rotation = _rotation(model, name, module, apply) if apply and own.sink_tokens else None


def _rotation(model: nn.Module, name: str, layer: nn.Module, apply: Callable) -> Rotation:
    parents = [name.rpartition(".")[0]]
    while parents[-1]:
        parents.append(parents[-1].rpartition(".")[0])
    found = (getattr(model.get_submodule(parent), "rotary_emb", None) for parent in parents)
    rotary = next(x for x in found if x is not None)
    kinds = getattr(rotary, "rope_type", "default")
    layer_type = layer.config.layer_types[layer.layer_idx] if isinstance(kinds, dict) else None
    kind = kinds[layer_type] if isinstance(kinds, dict) else kinds
    if depends_on_length(kind):
        got = f"'cache' for a model with rope_type {kind!r}"
        raise bad("positions", got, "its rotation depends on the length of the sequence; expected 'absolute'")
    return Rotation(rotary, apply, layer_type)


def attend_in_cache_places(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    call: Served,
    settings: LayerSettings,
    scaling: float | None,
    dropout: float,
) -> Tensor:
    """Attention with the positions of the cache, out (batch, seqlen_q, num_heads, head_dim_v).

    Args:
        query: (batch, num_heads, seqlen_q, head_dim).
        key: (batch, num_kv_heads, seqlen_k, head_dim).
        value: (batch, num_kv_heads, seqlen_k, head_dim_v).
        mask: of the call; None without one.
        call: as `classify` describes it.
        settings: of the layer, with a rotation.
        scaling: of the scores.
        dropout: probability.

    Raises:
        NotServed: packed sequences, or a traced call.
    """
    layout = call.layout
    if layout.cu_seqlens_q is not None or layout.segment_ids is not None or torch.compiler.is_compiling():
        raise NotServed("positions: got 'cache' with packed sequences or torch.compile; expected neither")
    sinks, window = settings.sink_tokens, settings.narrowed(call.kind).window
    turned = settings.rotation.turned(query, *_angles(query, mask, layout, settings, sinks + window[0]))
    states = None
    if (
        call.score is None
        and has_offset_only(replace(layout, sink_tokens=0))
        and not (dropout or settings.backend)
    ):
        states = _attend_parts(turned, query, key, value, window, sinks, layout.offset, scaling)
    if states is None:
        options = {"softmax_scale": scaling, "score": call.score, "dropout_p": dropout}
        q, *others = (x.transpose(1, 2) for x in (query, key, value))
        begin = torch.zeros(len(q), dtype=torch.int64, device=q.device)
        begin = begin if layout.kv_start is None else layout.kv_start
        end = begin + sinks if layout.kv_end is None else torch.minimum(layout.kv_end, begin + sinks)
        parts = (
            (turned.transpose(1, 2), (-1, 0), replace(layout, sink_tokens=0, kv_end=end)),
            (q, window, replace(layout, sink_tokens=0, kv_start=begin + sinks)),
        )
        states = [
            windowed_attention(
                x,
                *others,
                window_size=sides,
                layout=part,
                return_lse=True,
                backend=settings.backend,
                **options,
            )
            for x, sides, part in parts
        ]
    return merge_attention_states(*zip(*states, strict=True), backend=settings.backend)[0]


def _attend_parts(
    turned: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: Window,
    sinks: int,
    offset: int,
    scaling: float | None,
) -> list[tuple[Tensor, Tensor]] | None:
    """Attention to the sink tokens and to the keys after them, without options; None where C++ has it not."""
    parts = (
        (turned, key[:, :, :sinks], value[:, :, :sinks], (-1, 0), offset),
        (query, key[:, :, sinks:], value[:, :, sinks:], window, offset - sinks),
    )
    states = [
        attend_window(q, k, v, sides, scaling, first, heads_first=True) for q, k, v, sides, first in parts
    ]
    return None if None in states else states


def _angles(
    query: Tensor, mask: Tensor | None, layout: Layout, settings: LayerSettings, last: int
) -> tuple[Tensor, Tensor]:
    """Angles by which queries are rotated for the sink tokens; `last` is the last place in the cache.

    Layers that share a mask share the angles.
    """
    rotation = settings.rotation
    shared = id(rotation.rotary), rotation.layer_type, last, query.dtype
    if mask is not None and mask.angles is not None and mask.angles[0] == shared:
        return mask.angles[1]
    steps = torch.arange(query.shape[2], device=query.device)
    evicted, start = _num_evicted(mask), layout.kv_start
    if start is not None or isinstance(evicted, Tensor):
        before = evicted - (0 if start is None else start)
        place = layout.offset + steps + before[:, None]
    else:
        place = (layout.offset + evicted + steps)[None]
    angles = rotation.angles(query, (last - place).clamp(max=0))
    if mask is not None:
        mask.angles = shared, angles
    return angles


def _num_evicted(mask: Tensor | None) -> int | Tensor:
    """Tokens of each row that are not in the cache, an int or (batch,)."""
    if mask is None:
        return 0
    if not isinstance(mask, KeyMask) or mask.evicted is None:
        raise NotServed("positions: got 'cache' with a mask that lckernels did not create")
    return mask.evicted


def is_full(query: Tensor, mask: Tensor | None, layout: Layout, settings: LayerSettings) -> bool:
    """Whether a query of a call may be beyond the cache's length, as far as the host has the numbers."""
    offset, evicted = layout.offset, _num_evicted(mask)
    known = isinstance(offset, int) and isinstance(evicted, int)
    limit = settings.sink_tokens + settings.narrowed(settings.kind).window[0]
    return not known or offset + query.shape[2] - 1 + evicted > limit
