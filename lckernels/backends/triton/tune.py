"""Search for the fastest tiles on this GPU: each pass is timed alone with its tiles and their neighbours."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from triton.errors import TritonError

from lckernels.backends.triton import attention, chunked, tuned
from lckernels.backends.triton.tiles import (
    NARROW_WINDOW,
    SIZES,
    TABLE,
    Chip,
    Key,
    Tiles,
    allowed,
    block_dim,
    chip_of,
    choose_tiles,
    fitted,
)
from lckernels.fields import flat_options
from lckernels.options import AttentionOptions, Layout, Score
from lckernels.plan import PlanArgs
from lckernels.planner import plan_chunks

GAIN = 0.02  # least saving of a change of tiles, as a share of the time
STEPS = 4  # moves from tiles to neighbouring tiles, at most
_AGREE = 2e-2  # tolerance relative to the largest result; the order of sums differs between tiles

Results = tuple[Tensor, ...]
Call = Callable[[], Results]
TimeCall = Callable[[Call], float]
# Failures of compilation, loading and memory; those of torch and LLVM are RuntimeErrors.
_FAILURES = (TritonError, RuntimeError)


@dataclass(frozen=True)
class Problem:
    """Sizes of the timed calls."""

    seqlen: int = 8192
    num_heads: int = 16
    num_kv_heads: int = 4
    window: int = 1024
    chunk_len: int = 512
    overlap: int = 256


@dataclass(frozen=True)
class Tuned:
    """The result for one pass.

    Attributes:
        key: the pass.
        before: its tiles in use.
        after: the fastest tiles found.
        seconds_before: time with `before`.
        seconds_after: time with `after`.
        failure: why the pass cannot be timed here; empty if it was.
    """

    key: Key
    before: Tiles
    after: Tiles
    seconds_before: float = math.inf
    seconds_after: float = math.inf
    failure: str = ""

    @property
    def line(self) -> str:
        """A line of the table: pass, tiles and times before and after, ratio; or why the pass is left out."""
        name = f"{self.key!s:26}"
        if self.failure:
            return f"{name} is left out: {self.failure.splitlines()[0]}"
        times = [f"{1e3 * seconds:.3f} ms" for seconds in (self.seconds_before, self.seconds_after)]
        tiles = (self.before, self.after)
        sides = [f"{x!s:>16} {time:>12}" for x, time in zip(tiles, times, strict=True)]
        return f"{name} {'   '.join(sides)}   {self.seconds_before / self.seconds_after:.2f}x"


def gpu_seconds(call: Call) -> float:
    """The median time of a call on the GPU, with flushed caches."""
    from triton.testing import do_bench

    return 1e-3 * do_bench(call, warmup=10, rep=50, return_mode="median")


def tune(
    keys: list[Key], device: torch.device, time_call: TimeCall, problem: Problem | None = None
) -> Iterator[Tuned]:
    """For each key the best tiles found, starting from those in use.

    A step moves to the best neighbour (one size doubled or halved) if it saves GAIN. Tiles that do not run
    (also with options, where the key is used with some) or whose results differ are excluded.

    Args:
        keys: the passes.
        device: the GPU.
        time_call: returns the seconds that a call takes.
        problem: sizes of the timed calls; default: Problem().

    Yields:
        The result of each pass.
    """
    for key in keys:
        yield _tune_one(key, problem or Problem(), device, time_call)


def _tune_one(key: Key, problem: Problem, device: torch.device, time_call: TimeCall) -> Tuned:
    chip = chip_of(device)
    begin = best = choose_tiles(chip, *_choice(key, problem), tuned=tuned.tiles(chip))
    try:
        call, other_calls = calls_of(key, problem, device)
        want = call()
        seconds = {begin: time_call(call)}
    except _FAILURES as error:
        _raise_if_dead(device)
        return Tuned(key, begin, begin, failure=f"{type(error).__name__}: {error}")

    def measured(tiles: Tiles) -> float:
        """Seconds of the call with those tiles; inf if they fail or give other results."""
        with tuned.trying({key: tiles}):
            try:
                if not _agree(call(), want):
                    return math.inf
                for other in other_calls:
                    other()
                return time_call(call)
            except _FAILURES:
                _raise_if_dead(device)
                return math.inf

    for _ in range(STEPS):
        for tiles in neighbours(key, best, chip):
            if tiles not in seconds:
                seconds[tiles] = measured(tiles)
        fastest = min(seconds, key=seconds.__getitem__)
        if seconds[fastest] > (1 - GAIN) * seconds[best]:
            break
        best = fastest
    return Tuned(key, begin, best, seconds[begin], seconds[best])


def _raise_if_dead(device: torch.device) -> None:
    """Raises torch's error if the failure left the GPU unusable."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _agree(got: Results, want: Results) -> bool:
    pairs = [(x.float(), y.float()) for x, y in zip(got, want, strict=True) if x is not None]
    return all(bool((x - y).abs().amax() <= _AGREE * y.abs().amax()) for x, y in pairs)


def neighbours(key: Key, tiles: Tiles, chip: Chip) -> list[Tiles]:
    """Tiles that differ in one size by one step and that the chip supports."""
    found = []
    for name, sizes in SIZES.items():
        place = sizes.index(getattr(tiles, name))
        for size in sizes[max(place - 1, 0) : place + 2]:
            found.append(tiles._replace(**{name: size}))
    row_bytes = block_dim(key.room) * _dtype(key).itemsize
    return [
        other
        for other in found
        if other != tiles
        and allowed(key, other)
        and (chip.has_tma or not other.descriptors)
        and fitted(other, row_bytes, chip.shared_memory) == other
    ]


def keys_of(kernels: list[str], rooms: list[int], kinds: list[str]) -> list[Key]:
    """The keys of the table with those kernels, padded head dims and kinds; an empty list means all."""
    wanted = (kernels, rooms, kinds)
    return [key for key in TABLE if all(not some or x in some for x, some in zip(key, wanted, strict=True))]


def _dtype(key: Key) -> torch.dtype:
    return torch.float32 if key.kind == "fp32" else torch.bfloat16


def _choice(key: Key, problem: Problem) -> tuple:
    """Arguments of choose_tiles for the key."""
    window, heavy = _window(key, problem), key.kind == "heavy"
    return (key.kernel, key.room, _dtype(key), window, problem.seqlen, heavy)


def _window(key: Key, problem: Problem) -> int:
    return NARROW_WINDOW if key.kind == "narrow" else problem.window


def calls_of(key: Key, problem: Problem, device: torch.device) -> tuple[Call, list[Call]]:
    """The call that is timed, which runs the key's pass, and further calls that must run too.

    The further calls have every option that needs registers, where the key is used with them.
    """
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(_dtype(key))

    is_chunked = key.kernel.startswith("chunked")
    batch = () if is_chunked else (1,)
    heads = (problem.num_heads, problem.num_kv_heads, problem.num_kv_heads)
    q, k, v = (draw(*batch, problem.seqlen, n, key.room) for n in heads)
    dout = draw(*q.shape)
    if is_chunked:
        plan = plan_chunks(problem.seqlen, problem.chunk_len, problem.overlap).to(device).args
        return _chunked_pass(key, (q, k, v), dout, plan), []
    options = _options(key, problem, draw)
    timed = _pass(key, (q, k, v), dout, options)
    if key.kind not in ("heavy", "fp32") and key._replace(kind="heavy") in TABLE:
        return timed, []
    seed = torch.ones(1, dtype=torch.int64, device=device)
    mask = torch.ones(1, problem.seqlen, dtype=torch.bool, device=device)
    loaded = options._replace(
        layout=Layout(kv_mask=mask, segment_ids=mask.long(), sink_tokens=4),
        score=Score(30.0, draw(problem.num_heads, 64), 63),
        dropout_p=0.1,
        seed=seed,
    )
    whole_tiles = loaded._replace(layout=Layout(sink_tokens=4))
    return timed, [_pass(key, (q, k, v), dout, options) for options in (loaded, whole_tiles)]


def _chunked_pass(key: Key, inputs: Results, dout: Tensor, plan: PlanArgs) -> Call:
    """A call of the op's forward, or for a pass of the backward of the backward alone."""
    arguments = (*inputs, None, "triangular", plan, key.room**-0.5)
    forward = partial(chunked.chunked_attention, *arguments)
    if key.kernel == "chunked_forward":
        return lambda: forward()[:1]
    out, _ = forward()
    backward = partial(chunked.chunked_attention_backward, dout, None, *arguments, out)
    return lambda: backward()[:3]


def _options(key: Key, problem: Problem, draw: Callable[..., Tensor]) -> AttentionOptions:
    window, score = _window(key, problem), Score()
    if key.kind == "heavy":
        score = Score(softcap=30.0)
    if key.kernel == "backward_bias":
        score = Score(rel_bias=draw(problem.num_heads, window), bias_center=window - 1)
    return AttentionOptions((window - 1, 0), key.room**-0.5, Layout(), score, 0.0, None)


def _pass(key: Key, inputs: Results, dout: Tensor, options: AttentionOptions) -> Call:
    """A call of the op's forward, or for a pass of the backward of the backward alone."""
    flat = flat_options(options)
    forward = partial(attention.windowed_attention, *inputs, flat)
    if key.kernel == "forward":
        return forward
    out, lse = forward()
    return partial(attention.windowed_attention_backward, dout, None, *inputs, out, lse, flat)
