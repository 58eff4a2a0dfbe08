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
            self.layers = [_Layer(m) for m in model.modules() if isinstance(m, nn.Linear)]
            plan = plan_linear(model)
            self.report: LinearReport = plan.report
            self.switch = linear_switch(model, plan.forwards) if plan.forwards else None

    def holds(self, model: nn.Module) -> bool:
        """Whether it is this model, whose layers have the same parameters, dtypes and devices."""
        if model is not self.model or not all(layer.same() for layer in self.layers):
            return False
        return self.switch is None or self.switch.is_current()

    def context(self) -> AbstractContextManager[None]:
        """The context of a call, for this thread."""
        return nullcontext() if self.switch is None else self.switch.active()


class _Layer:
    """What is compared of a linear layer at each call."""

    def __init__(self, module: nn.Linear) -> None:
        self.parameters = module._parameters
        self.weight = weight = self.parameters.get("weight")
        self.dtype, self.is_cpu = (None, False) if weight is None else (weight.dtype, weight.is_cpu)

    def same(self) -> bool:
        weight = self.parameters.get("weight")
        if weight is not self.weight:
            return False
        return weight is None or (weight.dtype is self.dtype and weight.is_cpu is self.is_cpu)
