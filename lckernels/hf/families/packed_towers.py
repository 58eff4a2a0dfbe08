"""Vision and audio towers that make a call of attention for each image or window, without flash attention."""

from inspect import signature, unwrap

import torch
from torch import Tensor, nn

from lckernels.hf.family import Family
from lckernels.hf.masks.packing import CU_SEQLENS
from lckernels.hf.private import READ_LONGEST, READS_FLASH

_TOKENS = 4  # of a dry run


def _packs(cls: type) -> bool:
    """Whether a forward passes cu_seq_lens_q, or computes max_length_q, for flash attention alone."""
    code = getattr(unwrap(getattr(cls, "forward", None)), "__code__", None)
    if code is None or not issubclass(cls, nn.Module):
        return False
    read = {*code.co_names}
    keywords = {name for constant in code.co_consts if isinstance(constant, tuple) for name in constant}
    creates_mask = any(name.startswith("create_") and name.endswith("_mask") for name in read)
    packs = READS_FLASH in read and CU_SEQLENS[0] in keywords
    return not creates_mask and (packs or not read.isdisjoint(READ_LONGEST))


def _dry_inputs(layer: nn.Module) -> dict[str, Tensor | tuple[Tensor, Tensor] | int] | None:
    """One sequence for an attention layer; None for a tower."""
    forward = unwrap(type(layer).forward)
    parameters = signature(forward).parameters
    linear = next((m for m in layer.modules() if hasattr(m, "in_features")), None)
    if "cu_seqlens" not in parameters or linear is None:
        return None
    adds_batch = "unsqueeze" in forward.__code__.co_names
    shape = (_TOKENS,) if adds_batch else (1, _TOKENS)
    inputs = {
        "hidden_states": torch.zeros(*shape, linear.in_features),
        "cu_seqlens": torch.tensor([0, _TOKENS], dtype=torch.int32),
        "max_seqlen": _TOKENS,
    }
    if "position_embeddings" in parameters:
        inputs["position_embeddings"] = (torch.zeros(_TOKENS, layer.head_dim),) * 2
    return inputs


FAMILY = Family(name="packed_towers", matches=_packs, packs_sequences=True, dry_inputs=_dry_inputs)
