"""Which tiles are fastest on this GPU: each pass alone is timed with its own and with neighbouring tiles."""

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

GAIN = 0.02  # what a change of tiles must save, as a share of the time
STEPS = 4  # from a pass' tiles to neighbours, to theirs, ...
_AGREE = 2e-2  # of the largest result: other tiles sum in another order, wrong ones are far off

Results = tuple[Tensor, ...]
Call = Callable[[], Results]
TimeCall = Callable[[Call], float]
# Of compiling, of loading, of memory; torch's and LLVM's are RuntimeErrors.
_FAILURES = (TritonError, RuntimeError)


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
    """Of one pass: the tiles it had and those it is best with, and the time of each.

    failure: why the pass cannot be timed here; then nothing was found.
    """

    key: Key
    before: Tiles
    after: Tiles
    seconds_before: float = math.inf
    seconds_after: float = math.inf
    failure: str = ""

    @property
    def line(self) -> str:
        """The pass, its tiles and times before and after, and the ratio; or why it is left out."""
        name = f"{self.key!s:26}"
        if self.failure:
            return f"{name} is left out: {self.failure.splitlines()[0]}"
        times = [f"{1e3 * seconds:.3f} ms" for seconds in (self.seconds_before, self.seconds_after)]
        tiles = (self.before, self.after)
        sides = [f"{x!s:>16} {time:>12}" for x, time in zip(tiles, times, strict=True)]
        return f"{name} {'   '.join(sides)}   {self.seconds_before / self.seconds_after:.2f}x"


def gpu_seconds(call: Call) -> float:
    """The median of a call on the GPU, with its caches flushed."""
    from triton.testing import do_bench

    return 1e-3 * do_bench(call, warmup=10, rep=50, return_mode="median")


def tune(
    keys: list[Key], device: torch.device, time_call: TimeCall, problem: Problem | None = None
) -> Iterator[Tuned]:
    """For each key the best tiles found, starting from those in use.

    time_call: the seconds that a call takes. A step goes to the best neighbour (one size doubled or halved)
    if it saves GAIN; tiles that do not run, with options where the key serves some, or whose results differ
    are left out.
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
        """Seconds of the call with those tiles; inf if they do not serve."""
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
    """After some failures nothing runs on a GPU any more: raises torch's error then."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _agree(got: Results, want: Results) -> bool:
    pairs = [(x.float(), y.float()) for x, y in zip(got, want, strict=True) if x is not None]
    return all(bool((x - y).abs().amax() <= _AGREE * y.abs().amax()) for x, y in pairs)


def neighbours(key: Key, tiles: Tiles, chip: Chip) -> list[Tiles]:
    """Tiles that differ in one size by one step, and that the chip has room and copies for."""
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
    """The keys of the table among those; an empty list stands for all."""
    wanted = (kernels, rooms, kinds)
    return [key for key in TABLE if all(not some or x in some for x, some in zip(key, wanted, strict=True))]


def _dtype(key: Key) -> torch.dtype:
    return torch.float32 if key.kind == "fp32" else torch.bfloat16


def _choice(key: Key, problem: Problem) -> tuple:
    """What choose_tiles is asked for the key."""
    window, heavy = _window(key, problem), key.kind == "heavy"
    return (key.kernel, key.room, _dtype(key), window, problem.seqlen, heavy)


def _window(key: Key, problem: Problem) -> int:
    return NARROW_WINDOW if key.kind == "narrow" else problem.window


def calls_of(key: Key, problem: Problem, device: torch.device) -> tuple[Call, list[Call]]:
    """The call that is timed, which runs the key's pass, and those that must run too.

    These have every option that needs registers, where the key serves them.
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
    """The op's forward, or for a pass of the backward the backward alone."""
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
    """The op's forward, or for a pass of the backward the backward alone."""
    flat = flat_options(options)
    forward = partial(attention.windowed_attention, *inputs, flat)
    if key.kernel == "forward":
        return forward
    out, lse = forward()
    return partial(attention.windowed_attention_backward, dout, None, *inputs, out, lse, flat)
