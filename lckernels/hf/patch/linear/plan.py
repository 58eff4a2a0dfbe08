"""Which linear layers of a model run on packed weights, and the report."""

from dataclasses import dataclass
from types import MethodType

from torch import nn

from lckernels.hf.linear_report import LinearReport, LinearRow
from lckernels.hf.patch.linear import onednn
from lckernels.hf.patch.linear.forward import MANY_ROWS, PackedForward
from lckernels.hf.patch.linear.measure import MARGIN, SHORT_MARGIN, Speed, shape_of, speeds
from lckernels.hf.patch.linear.weight import PackedWeight, why_not_packable
from lckernels.instance_attributes import Absent


@dataclass(frozen=True)
class LinearPlan:
    """The layers of one model that run on packed weights.

    Attributes:
        forwards: their forwards, not installed.
        report: of all linear layers.
    """

    forwards: tuple[PackedForward, ...]
    report: LinearReport


def plan_linear(model: nn.Module) -> LinearPlan:
    """Measures the shapes of the model's linear layers, and packs the weights of those that gain."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    reasons = {name: why_left(module) for name, module in layers.items()}
    found = speeds(layers[name].weight for name, reason in reasons.items() if not reason)
    weights: dict[int, PackedWeight] = {}
    forwards: list[PackedForward] = []
    rows: dict[tuple, list[str]] = {}
    for name, module in layers.items():
        speed, reason = Speed(), reasons[name]
        if not reason:
            speed = found[shape_of(module.weight)]
            reason = "" if speed.rows else _not_faster(speed)
        if not reason:
            forwards.append(_forward(module, weights, speed))
        dtype = str(getattr(module.weight, "dtype", "none")).removeprefix("torch.")
        rows.setdefault((module.in_features, module.out_features, dtype, speed, reason), []).append(name)
    nbytes = sum(weight.nbytes for weight in weights.values())
    return LinearPlan(tuple(forwards), LinearReport(tuple(map(_row, rows.items())), nbytes))


def _forward(module: nn.Linear, weights: dict[int, PackedWeight], speed: Speed) -> PackedForward:
    """The forward of a layer; `weights` are those of other layers, by the id of the parameter."""
    own = module.__dict__.get("forward", Absent)
    if type(own) is PackedForward:
        weights[id(module.weight)] = own.weight
        return own
    packed = weights.setdefault(id(module.weight), PackedWeight(module.weight, MANY_ROWS))
    packed.current(module.weight)
    return PackedForward(module, packed, speed.rows, own)


def _row(item: tuple[tuple, list[str]]) -> LinearRow:
    (in_features, out_features, dtype, speed, reason), names = item
    ratios, rows = (speed.one, speed.few, speed.many), speed.rows
    used = (rows.one, rows.few, rows.many) if not reason else (False, False, False)
    return LinearRow(in_features, out_features, dtype, tuple(names), ratios, used, reason)


def _not_faster(speed: Speed) -> str:
    if speed.error:
        return speed.error
    return (
        f"not {MARGIN}x as fast, nor {SHORT_MARGIN}x for few rows"
        if speed.many
        else "not measured: too little time, or a mode of torch is active"
    )


def why_left(module: nn.Linear) -> str:
    """Why a layer keeps its own code, before any measurement; empty if it may be packed."""
    missing = onednn.missing()
    if missing:
        return missing
    if type(module) is not nn.Linear:
        return f"its class is {type(module).__name__}"
    own = module.__dict__.get("forward")
    if not (own is None or type(own) is PackedForward or _is_own(module, own)):
        return "another library has replaced its forward"
    return why_not_packable(module._parameters.get("weight"))


def _is_own(module: nn.Linear, forward: object) -> bool:
    """Whether an attribute of the instance is the forward of its class."""
    return (
        isinstance(forward, MethodType)
        and forward.__self__ is module
        and forward.__func__ is nn.Linear.forward
    )
