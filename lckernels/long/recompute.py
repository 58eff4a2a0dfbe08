"""recompute=True: activations of a micro-batch are not stored; the backward runs the micro-batch again."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from lckernels.long.one_node import FirstRun

if TYPE_CHECKING:
    from lckernels.long.encoder import LongEncoder

Result = TypeVar("Result")  # a tensor, or a list of tensors


class Recompute:
    """The runs of a call whose activations are not stored.

    A second run has the random state and the autocast of the first. Running statistics, as of BatchNorm, are
    updated by the first run alone.

    Args:
        model: whose micro-batches run.
        device: where it computes.
        attention: returns the context of a run; the backward is outside of the call's own.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, attention: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.model, self.device, self.attention = model, device, attention

    @classmethod
    def of_call(
        cls, encoder: "LongEncoder", attention: Callable[[], AbstractContextManager[None]]
    ) -> "Recompute | None":
        """That of a call of `encoder`; None where activations are stored, or no gradient is recorded."""
        if not encoder.recompute or not torch.is_grad_enabled():
            return None
        return cls(encoder.model, encoder.device, attention)

    def of(self, run: Callable[..., Result]) -> Callable[..., Result]:
        """`run`, without stored activations.

        It takes what a second run requires as arguments that it does not change.

        Raises:
            TypeError: in a call, the model changes one of its buffers: a second run would have other values.
        """

        def read(*args: Any) -> Result:
            is_first = True

            def run_once(_: Tensor, *args: Any, then: Callable[[Result], Any] = lambda x: x) -> Any:
                nonlocal is_first
                context = _unchanged_buffers if is_first else _restored_statistics
                is_first = False
                with self.attention(), context(self.model):
                    return then(run(*args))

            # checkpoint stores the random state of the devices of its arguments.
            here = torch.empty(0, device=self.device)
            first = FirstRun() if FirstRun.is_supported(self.device) else None
            states = checkpoint(run_once, here, *args, use_reentrant=False)
            if first is None:
                return states
            return first.as_one_node(states, self.model, partial(run_once, here, *args))

        return read


@contextmanager
def _unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Raises TypeError if a buffer other than running statistics is changed in place."""
    if torch.compiler.is_compiling():
        yield
        return
    statistics = {id(x) for x in _statistics(model)}
    before = [
        (name, x, x._version)
        for name, x in model.named_buffers()
        if id(x) not in statistics and not x.is_inference()
    ]
    yield
    for name, x, version in before:
        if x._version != version:
            got = f"True, and {type(model).__name__} changes its buffer {name} in each forward"
            raise TypeError(f"recompute: got {got}; expected False, since a second run has other values")


@contextmanager
def _restored_statistics(model: nn.Module) -> Iterator[None]:
    """Afterwards running statistics are as before."""
    before = [(x, x.clone()) for x in _statistics(model)]
    try:
        yield
    finally:
        with torch.no_grad():
            for x, values in before:
                x.copy_(values)


def _statistics(model: nn.Module) -> list[Tensor]:
    """The running statistics that a forward of the model updates and does not read."""
    norms = (x for x in model.modules() if isinstance(x, _NormBase) and x.training)
    return [x for norm in norms for x in norm._buffers.values() if x is not None]
