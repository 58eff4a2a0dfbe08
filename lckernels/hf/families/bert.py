"""BERT and the models derived from it: the method of their feed-forward, and its first layer."""

from collections.abc import Callable

from torch import Tensor, nn

from lckernels.hf.family import Family
from lckernels.hf.fused import activated, names_and_operators

_METHOD = "feed_forward_chunk"
_FIRST_LAYER = (("dense", "intermediate_act_fn"), ())  # of BertIntermediate.forward


def _is_first_layer(cls: type) -> bool:
    return cls.__name__.endswith("Intermediate") and names_and_operators(cls, "forward") == _FIRST_LAYER


def _first_layer(module: nn.Module, hidden_states: Tensor) -> Tensor:
    return activated(module.dense, module.intermediate_act_fn, hidden_states)


def _fused(module: nn.Module) -> dict[str, Callable]:
    return {"forward": _first_layer} if _is_first_layer(type(module)) else {}


FAMILY = Family(
    name="bert",
    matches=lambda cls: hasattr(cls, _METHOD) or _is_first_layer(cls),
    feed_forward=(_METHOD,),
    fused=_fused,
)
