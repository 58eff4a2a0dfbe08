"""The packed weights of a LongEncoder's model, as long as its linear layers stay the same."""

from contextlib import AbstractContextManager, nullcontext

from torch import nn

from lckernels.hf.linear_report import LinearReport
from lckernels.hf.patch.linear.plan import plan_linear
from lckernels.hf.patch.methods import lock
from lckernels.hf.patch.modules import linear_switch


class LinearChoice:
    """The linear layers of a model that run on packed weights.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        with lock:
            self.layers = _layers(model)
            plan = plan_linear(model)
            self.report: LinearReport = plan.report
            self.switch = linear_switch(model, plan.forwards) if plan.forwards else None

    def holds(self, model: nn.Module) -> bool:
        """Whether the model has these layers, with these parameters, dtypes and devices."""
        if model is not self.model or _layers(model) != self.layers:
            return False
        return self.switch is None or self.switch.is_current()

    def context(self) -> AbstractContextManager[None]:
        """The context of a call, for this thread."""
        return nullcontext() if self.switch is None else self.switch.active()


def _layers(model: nn.Module) -> list[tuple]:
    """What is compared of each linear layer."""
    found = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            weight = module._parameters.get("weight")
            found.append((id(module), type(module), id(weight), *_kind(weight)))
    return found


def _kind(weight: nn.Parameter | None) -> tuple:
    return () if weight is None else (weight.dtype, weight.device.type)
