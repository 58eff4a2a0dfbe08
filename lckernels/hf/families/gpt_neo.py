"""GPT-Neo: attention with code of its own, without scaling; local layers see the last `window_size` keys."""

from typing import Any

import torch
from torch import Tensor, nn

from lckernels.hf.family import Family
from lckernels.hf.masks.key_mask import KeyMask, layout_of
from lckernels.hf.masks.kinds import CAUSAL, Window
from lckernels.hf.own_attention import attention_of
from lckernels.options import Layout

_LAYERS = ("GPTNeoSelfAttention", "GPTNeoFlashAttention2")


def _attention(
    module: nn.Module,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    layer_past: Any = None,
    use_cache: bool = False,
    output_attentions: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """The layer's forward; the scores are in fp32, as in the model."""
    sizes = module.num_heads, module.head_dim
    projections = (module.q_proj, module.k_proj, module.v_proj)
    q, k, v = (module._split_heads(project(hidden_states), *sizes) for project in projections)
    if layer_past is not None:
        k, v = layer_past.update(k, v, module.layer_id)
    mask = _mask(module, attention_mask, q, k)
    if output_attentions:  # the kernels accumulate in fp32, dense attention does not
        q, k = q.float(), k.float()
    attention = attention_of(module)
    out, weights = attention(
        module, q, k, v, mask, dropout=module.attn_dropout.p if module.training else 0.0, scaling=1.0,
        output_attentions=output_attentions,
    )  # fmt: skip
    return module.resid_dropout(module.out_proj(out.flatten(2))), weights


def _mask(module: nn.Module, mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor:
    """The model's mask, which has no window, with the layer's own."""
    window = (module.config.window_size - 1, 0) if module.attention_type == "local" else CAUSAL
    batch, seqlen_q, seqlen_k = q.shape[0], q.shape[2], k.shape[2]
    if mask is None or not isinstance(mask, KeyMask):
        shape = (batch, 1, seqlen_q, seqlen_k)
        own = KeyMask.create(shape, q.device, window, Layout(offset=seqlen_k - seqlen_q))
        return own if mask is None else _joined(mask, own.dense())
    return mask if window == CAUSAL else _narrowed(mask, window)


def _narrowed(mask: KeyMask, window: Window) -> KeyMask:
    """A causal mask with this window."""
    dense = mask.dense_mask
    if dense is not None:  # created under torch.compile
        keys, queries = (torch.arange(n, device=dense.device) for n in (dense.shape[3], dense.shape[2]))
        places = queries[:, None] + torch.as_tensor(layout_of(mask).offset, device=dense.device)
        dense = dense & (keys >= places - window[0])
    return KeyMask.create(
        tuple(mask.shape), mask.device, None if mask.window is None else window, layout_of(mask),
        dense_mask=dense, local_size=None if mask.window is not None else window[0] + 1, causal=mask.causal,
    )  # fmt: skip


def _joined(mask: Tensor, visible: Tensor) -> Tensor:
    """A dense mask of the user, bool or numbers to add, restricted to the visible keys."""
    if mask.dtype == torch.bool:
        return mask & visible
    return mask.masked_fill(~visible, torch.finfo(mask.dtype).min)


def _replacements(module: nn.Module) -> dict[str, Any]:
    return {"forward": _attention} if type(module).__name__ in _LAYERS else {}


def _positions(module: nn.Module) -> tuple[int, bool] | None:
    table = getattr(module, "wpe", None)
    return None if table is None else (table.num_embeddings, False)


FAMILY = Family(name="gpt_neo", replacements=_replacements, own_attention=True, learned_positions=_positions)
