"""`quantize`: the linear layers of one model in int8, for calls without gradients on a CPU."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

from torch import nn

from lckernels.checks import bad
from lckernels.hf.int8 import Int8Forward, Int8Weight, missing
from lckernels.hf.patch.linear.weight import why_not_packable
from lckernels.instance_attributes import Absent

FEWEST = 32  # features: smaller layers, such as heads and adapters, have little to gain


@dataclass(frozen=True)
class QuantizeReport:
    """What `quantize` changed. `str()` is a summary.

    Attributes:
        layers: names of the layers that run in int8.
        left: the name of each other linear layer, and why it is left.
        nbytes: memory of the int8 weights, beside the model's own, which are kept.
    """

    layers: tuple[str, ...]
    left: dict[str, str]
    nbytes: int

    def __str__(self) -> str:
        total = len(self.layers) + len(self.left)
        head = f"{len(self.layers)} of {total} linear layers in int8, {self.nbytes / 2**20:,.1f} MiB beside"
        reasons = Counter(self.left.values())
        return "\n".join([f"{head} their weights", *(f"left {n}: {why}" for why, n in reasons.items())])


def quantize(model: nn.Module) -> QuantizeReport:
    """Linear layers compute in int8 from now on, in calls without gradients on a CPU; in place.

    Weights have a scale for each output feature, activations one for each token, from its own values: a
    token's result has the same bits in every batch. Products and sums are exact; results have the model's
    dtype. Parameters, module tree and state_dict stay as they are; a weight that changes is rounded again at
    the next call. The layers' own code runs with gradients, under autocast, torch.compile and tracing, and on
    other devices. On a processor with bfloat16 products a model in bfloat16 is faster and closer
    (docs/real_time.md).

    Args:
        model: any module, such as a transformers model in float32, bfloat16 or float16, a lengthened one, a
            LongEncoder or a SentenceTransformer.

    Returns:
        The layers in int8, and those that are left: heads and adapters with fewer than 32 features on a side,
        layers of other classes than torch.nn.Linear, on other devices, with other forwards.

    Raises:
        TypeError: `model` is no module.
        ValueError: the model is quantized already, no layer of it can be, or this machine has no exact int8
            products (x86 without VNNI).
    """
    _check_module(model)
    if _forwards(model):
        raise bad("model", f"{type(model).__name__}, quantized", "lckernels.unquantize restores it")
    why = missing()
    if why:
        raise bad("model", f"a machine for which {why}", "bfloat16 or float32 run everywhere")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    left = {name: why for name, module in layers.items() if (why := _why_left(module))}
    taken = {name: module for name, module in layers.items() if name not in left}
    if not taken:
        counts = Counter(left.values())
        got = "; ".join(f"{n} left: {why}" for why, n in counts.items()) or "no torch.nn.Linear"
        raise bad("model", f"{type(model).__name__} ({got})", "expected linear layers on the CPU")
    weights: dict[int, Int8Weight] = {}
    for module in taken.values():
        weight = weights.setdefault(id(module.weight), Int8Weight(module.weight))
        weight.current(module.weight)
        Int8Forward(module, weight, module.__dict__.get("forward", Absent)).install()
    return QuantizeReport(tuple(taken), left, sum(weight.nbytes for weight in weights.values()))


def unquantize(model: nn.Module) -> None:
    """Restores the linear layers to their state before `quantize`.

    Raises:
        TypeError: `model` is no module.
        ValueError: the model is not quantized.
    """
    _check_module(model)
    forwards = _forwards(model)
    if not forwards:
        got = f"{type(model).__name__}, not quantized"
        raise bad("model", got, "expected a model after lckernels.quantize")
    for forward in forwards:
        forward.release()


@contextmanager
def quantized(model: nn.Module) -> Iterator[QuantizeReport]:
    """`quantize(model)` as a context manager: yields the report, and restores the model at the end."""
    report = quantize(model)
    try:
        yield report
    finally:
        unquantize(model)


def _forwards(model: nn.Module) -> list[Int8Forward]:
    found = (module.__dict__.get("forward") for module in model.modules())
    return [forward for forward in found if type(forward) is Int8Forward]


def _why_left(module: nn.Linear) -> str:
    if type(module) is not nn.Linear:
        return f"its class is {type(module).__name__}"
    if min(module.in_features, module.out_features) < FEWEST:
        return f"fewer than {FEWEST} features"
    own: Any = module.__dict__.get("forward")
    if not (own is None or (isinstance(own, MethodType) and own.__func__ is nn.Linear.forward)):
        return "its forward is replaced"
    return why_not_packable(module._parameters.get("weight"))


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}; expected a torch.nn.Module")
