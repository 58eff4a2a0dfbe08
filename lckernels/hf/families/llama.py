"""Llama and the models derived from it (Mistral, Qwen, SmolLM, ...): their gated MLP."""

from collections.abc import Callable

from torch import Tensor, nn

from lckernels.hf.family import Family
from lckernels.hf.fused import gated, names_and_operators

_MLP = (("down_proj", "act_fn", "gate_proj", "up_proj"), ("*",))  # of LlamaMLP.forward


def _is_mlp(cls: type) -> bool:
    return issubclass(cls, nn.Module) and names_and_operators(cls, "forward") == _MLP


def _mlp(module: nn.Module, x: Tensor) -> Tensor:
    return gated(module.gate_proj, module.act_fn, module.up_proj, module.down_proj, x)


def _fused(module: nn.Module) -> dict[str, Callable]:
    return {"forward": _mlp}


FAMILY = Family(name="llama", matches=_is_mlp, fused=_fused)
