"""StreamingLLM in plain torch: keys without positions in the cache, rotated at their places in it."""

import copy
import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "streaming_reference"


class NoRotation(nn.Module):
    """A rotary embedding whose angles are all 0, so that queries and keys get no positions."""

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary

    def forward(self, x: Tensor, position_ids: Tensor, *layer_type: str) -> tuple[Tensor, Tensor]:
        cos, sin = self.rotary(x, position_ids, *layer_type)
        return torch.ones_like(cos), torch.zeros_like(sin)


def streaming_model(model: nn.Module, window: int, sink_tokens: int) -> nn.Module:
    """A copy of an unpatched decoder whose full layers attend as StreamingLLM, one query after the other."""
    copied = copy.deepcopy(model)
    inner = next(module for module in copied.modules() if hasattr(module, "rotary_emb"))
    rotary, inner.rotary_emb = inner.rotary_emb, NoRotation(inner.rotary_emb)

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **options: Any
    ) -> tuple[Tensor, None]:
        apply = sys.modules[type(module).__module__].apply_rotary_pos_emb
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        sliding = getattr(module, "sliding_window", None) is not None
        rows = []
        for row in range(query.shape[0]):
            first = int(attention_mask[row].to(torch.uint8).argmax())
            outs = []
            for t in range(query.shape[2]):
                last = t - first
                width = module.sliding_window if sliding else window
                sinks = [] if sliding else range(min(sink_tokens, max(last - width + 1, 0)))
                seen = [*sinks, *range(max(last - width + 1, 0), last + 1)]
                places = list(range(len(seen))) if not sliding else seen
                if not seen:
                    outs.append(torch.zeros_like(query[row, :, t]))
                    continue
                slots = torch.tensor(seen) + first
                outs.append(_attend(module, rotary, apply, query[row, :, t], key[row, :, slots],
                                    value[row, :, slots], places, options))  # fmt: skip
            rows.append(torch.stack(outs))
        return torch.stack(rows), None

    def mask(*args: Any, q_length: int, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
        whole = torch.ones(options["batch_size"], q_length, dtype=torch.bool)
        return whole if attention_mask is None else attention_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)
    copied.config._attn_implementation = NAME
    return copied


def _attend(
    module: nn.Module,
    rotary: nn.Module,
    apply: Any,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    places: list[int],
    options: dict[str, Any],
) -> Tensor:
    """The output of one query (heads, head_dim) over keys (heads, n, head_dim) at these places."""
    kind = (
        [module.config.layer_types[module.layer_idx]]
        if isinstance(getattr(rotary, "rope_type", None), dict)
        else []
    )
    if getattr(module, "use_rope", True):
        cos, sin = rotary(keys, torch.tensor([places]), *kind)
        size = cos.shape[-1]
        q = query[:, None].expand(-1, len(places), -1)
        turned = apply(q[None, ..., :size], keys[None, ..., :size], cos, sin)
        q, k = (torch.cat([x[0], y[..., size:]], dim=-1) for x, y in zip(turned, (q, keys), strict=True))
        query, keys = q[:, -1], k
    scores = torch.einsum("hd,hnd->hn", query, keys) * options["scaling"]
    if options.get("softcap"):
        scores = options["softcap"] * torch.tanh(scores / options["softcap"])
    return torch.einsum("hn,hnd->hd", scores.softmax(-1), values)
