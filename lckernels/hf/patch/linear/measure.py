"""How much faster linear layers of one shape run on packed weights, measured in turns with torch's own."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from lckernels.hf.patch.linear.forward import MANY_ROWS, PackedForward, Rows
from lckernels.hf.patch.linear.weight import PackedWeight
from lckernels.hf.patch.methods import PATCHED
from lckernels.ops.registration import is_intercepted

SECONDS = 0.2  # for all shapes of a model together, packing not included
MARGIN = 1.02  # for 64 rows and more: a smaller ratio may be noise
SHORT_MARGIN = 1.05  # for fewer: measured ratios of equal code reach it
_FEW, _MANY, _MOST = 16, 64, 2048  # rows that are measured; of many as many as the time suffices for
_SHARES = 0.15, 0.4  # of a shape's time, for one and for few rows
_MOST_VALUES = 1_310_720  # of a measured weight; of a larger one a part is measured
_ROUNDS = (3, 15)  # the fewest that count, and the most
_CALLS = 8  # of each, for which the time must suffice
_SAMPLE_SECONDS = 1e-4  # shorter calls are repeated

Shape = tuple[int, int, torch.dtype]


@dataclass(frozen=True)
class Speed:
    """Time of torch's own code divided by that on the packed weight; 0 where the time did not suffice.

    Attributes:
        one, few, many: for one row, for 2 to 63 rows, and for more.
        error: why the weight cannot be packed; empty if it can.
    """

    one: float = 0.0
    few: float = 0.0
    many: float = 0.0
    error: str = ""

    @property
    def rows(self) -> Rows:
        """The calls for which the packed weight is faster by more than the margin."""
        return Rows(self.one >= SHORT_MARGIN, self.few >= SHORT_MARGIN, self.many >= MARGIN)


_known: dict[tuple, Speed] = {}  # of the process, by shape and number of threads


def speeds(weights: Iterable[nn.Parameter]) -> dict[Shape, Speed]:
    """The speed of each shape among the weights (out_features, in_features), in at most SECONDS.

    A shape is measured once in a process, with that number of threads.
    """
    examples: dict[tuple, Tensor] = {}
    shapes: dict[Shape, tuple] = {}
    for weight in weights:
        part = _part(weight)
        key = (*part.shape, part.dtype, torch.get_num_threads())
        examples.setdefault(key, part)
        shapes[shape_of(weight)] = key
    rest = [key for key in examples if key not in _known]
    for key in rest[:1]:  # starts the threads of both libraries
        _measure(examples[key], 0.0)
    end = time.perf_counter() + SECONDS
    for i, key in enumerate(rest):
        now = time.perf_counter()
        speed = _measure(examples[key], now + (end - now) / (len(rest) - i))
        if speed.many or speed.error:
            _known[key] = speed
    return {shape: _known.get(key, Speed()) for shape, key in shapes.items()}


def shape_of(weight: Tensor) -> Shape:
    """(in_features, out_features, dtype) of a weight."""
    return weight.shape[1], weight.shape[0], weight.dtype


def _part(weight: Tensor) -> Tensor:
    """The weight's first rows and columns, of both sizes at most as many as a measurement has time for."""
    rows, columns = weight.shape
    while rows * columns > _MOST_VALUES:
        rows, columns = (-(-rows // 2), columns) if rows >= columns else (rows, -(-columns // 2))
    return weight.detach()[:rows, :columns]


def _measure(weight: Tensor, until: float) -> Speed:
    """The speed of a layer with this weight; `until` by perf_counter."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        if is_intercepted():  # each call would run torch's own code
            return Speed()
        shape = weight.shape[1], weight.shape[0]
        layer = nn.utils.skip_init(nn.Linear, *shape, device="cpu", dtype=weight.dtype)
        layer.weight.copy_(weight)
        layer.bias.zero_()
        layer.__dict__[PATCHED] = {}
        forward = PackedForward(layer, PackedWeight(layer.weight, MANY_ROWS), Rows(True, True, True))
        try:
            forward.weight.current(layer.weight)
        except RuntimeError as error:
            return Speed(error=str(error).partition("\n")[0])
        begin = time.perf_counter()
        one, few = (
            _ratio(forward, rows, begin + (until - begin) * share)
            for rows, share in zip((1, _FEW), _SHARES, strict=True)
        )
        return Speed(one, few, _ratio(forward, _MANY, until, _MOST))


def _ratio(forward: PackedForward, rows: int, until: float, most_rows: int = 0) -> float:
    """Time of the layer's own code divided by that of `forward`; 0 for too few rounds.

    It is the smaller of two estimates. With `most_rows` the rows are up to so many if the time suffices.
    """
    fewest, most = _ROUNDS
    own, packed = _calls(forward, rows)
    seconds = min(_seconds(own, 1), _seconds(own, 1))
    while rows < most_rows and time.perf_counter() + 2 * _CALLS * 2 * seconds < until:
        rows, seconds = 2 * rows, 2 * seconds
    own, packed = _calls(forward, rows)
    for call in (own, packed):
        call()
    repeats = max(1, min(16, int(_SAMPLE_SECONDS / min(_seconds(call, 1) for call in (own, packed)))))
    samples: list[tuple[float, float]] = []
    while len(samples) < most and time.perf_counter() < until:
        samples.append((_seconds(own, repeats), _seconds(packed, repeats)))
    if len(samples) < fewest:
        return 0.0
    fastest = min(a for a, _ in samples) / min(b for _, b in samples)
    return min(fastest, median(a / b for a, b in samples))


def _calls(forward: PackedForward, rows: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The layer's own code and `forward` on so many rows."""
    x = torch.full((rows, forward.weight.shape[1]), 0.5, dtype=forward.weight.dtype, device="cpu")
    return partial(forward.original, x), partial(forward, x)


def _seconds(call: Callable[[], Tensor], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return time.perf_counter() - begin
