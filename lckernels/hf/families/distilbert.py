"""DistilBERT, ALBERT and XLM: the method of their feed-forward; DistilBERT's activation."""

from collections.abc import Callable

from torch import Tensor, nn

from lckernels.hf.family import Family
from lckernels.hf.fused import activated, names_and_operators

_METHOD = "ff_chunk"
_DISTILBERT = (("lin1", "activation", "lin2", "dropout"), ())


def _ff_chunk(module: nn.Module, input: Tensor) -> Tensor:  # the name of transformers' argument
    return module.dropout(module.lin2(activated(module.lin1, module.activation, input)))


def _fused(module: nn.Module) -> dict[str, Callable]:
    return {_METHOD: _ff_chunk} if names_and_operators(type(module), _METHOD) == _DISTILBERT else {}


FAMILY = Family(
    name="distilbert", matches=lambda cls: hasattr(cls, _METHOD), feed_forward=(_METHOD,), fused=_fused
)
