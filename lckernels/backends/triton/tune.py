"""Which tiles are fastest on this GPU: each pass alone is timed with its own and with neighbouring tiles."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError

from lckernels.backends import triton as backend
from lckernels.backends.triton import tuned
from lckernels.backends.triton.tiles import (
    NARROW_WINDOW,
    TABLE,
    Chip,
    Key,
    Tiles,
    chip_of,
    choose_tiles,
    fitted,
)
from lckernels.functional import chunked_attention
from lckernels.options import AttentionOptions, Layout, Score
from lckernels.plan import plan_chunks

GAIN = 0.02  # what a change of tiles must save, as a share of the time
STEPS = 4  # from a pass' tiles to neighbours, to theirs, ...
_WARPS, _STAGES, _BLOCKS = (4, 8), (1, 2, 3, 4), (16, 32, 64, 128)
_AGREE = 2e-2  # of the largest result: other tiles sum in another order, wrong ones are far off

Results = tuple[Tensor, ...]
Call = Callable[[], Results]
TimeCall = Callable[[Call], float]


@dataclass(frozen=True)
class Problem:
    """Sizes of what is timed."""

    seqlen: int = 8192
    num_heads: int = 16
    num_kv_heads: int = 4
    window: int = 1024
    chunk_len: int = 512
    overlap: int = 256


@dataclass(frozen=True)
class Tuned:
    """Of one pass: the tiles it had and those it is best with, and the time of each."""

    key: Key
    before: Tiles
    after: Tiles
    seconds_before: float
    seconds_after: float


def tune(
    keys: list[Key], device: torch.device, time_call: TimeCall, problem: Problem | None = None
) -> Iterator[Tuned]:
    """For each key the best tiles found, starting from those in use.

    time_call: the seconds that a call takes. A step goes to the best neighbour (one size doubled or halved)
    if it saves GAIN; tiles that do not compile, or whose results differ, are left out.
    """
    for key in keys:
        yield _tune_one(key, problem or Problem(), device, time_call)


def _tune_one(key: Key, problem: Problem, device: torch.device, time_call: TimeCall) -> Tuned:
    call, chip = call_of(key, problem, device), chip_of(device)
    begin = best = choose_tiles(chip, *_choice(key, problem), tuned=tuned.tiles(chip))
    seconds = {begin: _seconds(key, begin, call, time_call, None)}
    want = call()
    for _ in range(STEPS):
        for tiles in neighbours(key, best, chip):
            if tiles not in seconds:
                seconds[tiles] = _seconds(key, tiles, call, time_call, want)
        fastest = min(seconds, key=seconds.__getitem__)
        if seconds[fastest] > (1 - GAIN) * seconds[best]:
            break
        best = fastest
    return Tuned(key, begin, best, seconds[begin], seconds[best])


def _seconds(
    key: Key, tiles: Tiles, call: Call, time_call: TimeCall, want: tuple[Tensor, ...] | None
) -> float:
    """Seconds of the call with those tiles; inf if they do not serve. want: results to agree with."""
    with tuned.trying(key, tiles):
        try:
            if want is not None and not _agree(call(), want):
                return float("inf")
            return time_call(call)
        except (OutOfResources, PTXASError):
            return float("inf")


def _agree(got: Results, want: Results) -> bool:
    pairs = [(x.float(), y.float()) for x, y in zip(got, want, strict=True) if x is not None]
    return all(bool((x - y).abs().amax() <= _AGREE * y.abs().amax()) for x, y in pairs)


def neighbours(key: Key, tiles: Tiles, chip: Chip) -> list[Tiles]:
    """Tiles that differ in one size by one step, and have room."""
    found = []
    for name, sizes in (
        ("block_m", _BLOCKS), ("block_n", _BLOCKS), ("num_warps", _WARPS), ("num_stages", _STAGES),
    ):  # fmt: skip
        place = sizes.index(getattr(tiles, name))
        for size in sizes[max(place - 1, 0) : place + 2]:
            found.append(tiles._replace(**{name: size}))
    row_bytes = key.room * _dtype(key).itemsize
    return [
        other
        for other in found
        if other != tiles
        and fitted(other, row_bytes, chip.shared_memory) == other
        and (key.kernel != "backward_bias" or other.block_m <= other.block_n)
    ]


def keys_of(kernels: list[str], rooms: list[int], kinds: list[str]) -> list[Key]:
    """The keys of the table among those; an empty list stands for all."""
    wanted = (kernels, rooms, kinds)
    return [key for key in TABLE if all(not some or x in some for x, some in zip(key, wanted, strict=True))]


def _dtype(key: Key) -> torch.dtype:
    return torch.float32 if key.kind == "fp32" else torch.bfloat16


def _choice(key: Key, problem: Problem) -> tuple:
    """What choose_tiles is asked for the key."""
    narrow, heavy = key.kind == "narrow", key.kind == "heavy"
    return (
        key.kernel, key.room, _dtype(key), NARROW_WINDOW if narrow else problem.window, problem.seqlen, heavy
    )  # fmt: skip


def call_of(key: Key, problem: Problem, device: torch.device) -> Call:
    """A call that runs the key's pass: the forward or the backward of its op, on random inputs."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(_dtype(key))

    if key.kernel == "chunked":
        q, k, v = (draw(problem.seqlen, n, key.room) for n in _heads(problem))
        plan = plan_chunks(problem.seqlen, problem.chunk_len, problem.overlap).to(device)
        return lambda: (chunked_attention(q, k, v, plan, backend="triton"),)
    q, k, v = (draw(1, problem.seqlen, n, key.room) for n in _heads(problem))
    window = NARROW_WINDOW if key.kind == "narrow" else problem.window
    score = Score()
    if key.kind == "heavy":
        score = Score(softcap=30.0)
    if key.kernel == "backward_bias":
        score = Score(rel_bias=draw(problem.num_heads, window), bias_center=window - 1)
    options = AttentionOptions((window - 1, 0), key.room**-0.5, Layout(), score, 0.0, None)
    forward = partial(backend.windowed_attention, q, k, v, options)
    if key.kernel == "forward":
        return forward
    out, lse = forward()
    dout = draw(*out.shape)
    return partial(backend.windowed_attention_backward, dout, None, q, k, v, out, lse, options)


def _heads(problem: Problem) -> tuple[int, int, int]:
    return problem.num_heads, problem.num_kv_heads, problem.num_kv_heads
