"""The choice of tiles: a pure function of the chip and the problem, without measuring at the first call.

Cost model. A tile of queries runs over ceil((BLOCK_M + window - 1) / BLOCK_N) tiles of keys (one more where
its window does not begin at a tile's edge), of which 2 * BLOCK_M / BLOCK_N are masked: small tiles waste less
of a narrow window, large ones reuse more of the loaded data. Registers limit both: they hold an accumulator
of BLOCK_M x head_dim fp32 and the scores of BLOCK_M x BLOCK_N, and for fp32 on tensor cores twice the
operands. The sizes are the largest that `python -m bench.compile.triton_compile` shows without spills on
sm_90; they are not timed on a GPU yet. `lckernels tune` times others (tune.py) and stores the faster ones
(tuned.py).
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import torch
import triton

from lckernels.backends.triton.launch import interpreted
from lckernels.segments import TILE_LEN

NARROW_WINDOW = 128  # keys; up to this width tiles are small
MAX_SPLITS = 64
_SPLIT_KEYS = 256  # keys; a split is at least as long


class Tiles(NamedTuple):
    """A tile's sizes (queries x keys) and the compiler's options for its kernel."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    descriptors: bool = False  # whole tiles are read through tensor descriptors: by TMA

    def __str__(self) -> str:
        return "x".join(map(str, self[:4])) + ("-tma" if self.descriptors else "")


class Chip(NamedTuple):
    """The properties of a GPU that the choice depends on."""

    arch: str  # sm_90, gfx942
    shared_memory: int  # bytes of a program
    num_sms: int

    @property
    def has_tma(self) -> bool:
        """Whether tiles may be read through tensor descriptors.

        Later chips have TMA too, but Triton 3.6 lacks the workaround of 3.9 for a bug in their drivers
        (triton-lang/triton#10442).
        """
        return self.arch == "sm_90"


class Key(NamedTuple):
    """The key of the table of tiles; kinds go from "heavy" or "narrow" to "half" or "fp32"."""

    kernel: str  # forward, backward_kv, backward_q, backward_bias, or chunked_ and one of the first three
    room: int  # padded head dim: 64 (and less), 128, 256; 192 where its tiles differ from those of 256
    kind: str  # fp32; half: bf16 and fp16; narrow: half with a narrow window; heavy: with costly options

    def __str__(self) -> str:
        return " ".join(map(str, self))


TABLE = {
    Key("forward", 64, "half"): Tiles(128, 64, 4, 3),
    Key("forward", 64, "narrow"): Tiles(64, 64, 4, 2),
    Key("forward", 64, "heavy"): Tiles(128, 64, 8, 3),
    Key("forward", 64, "fp32"): Tiles(64, 32, 8, 2),
    Key("forward", 128, "half"): Tiles(128, 64, 8, 3),
    Key("forward", 128, "narrow"): Tiles(64, 64, 8, 2),
    Key("forward", 128, "fp32"): Tiles(16, 32, 8, 1),
    Key("forward", 192, "half"): Tiles(128, 32, 8, 1),
    Key("forward", 256, "half"): Tiles(128, 32, 8, 2),
    Key("forward", 256, "fp32"): Tiles(16, 32, 8, 2),
    Key("backward_kv", 64, "half"): Tiles(64, 128, 8, 2),
    Key("backward_kv", 64, "narrow"): Tiles(32, 64, 4, 2),
    Key("backward_kv", 64, "heavy"): Tiles(32, 128, 8, 2),
    Key("backward_kv", 64, "fp32"): Tiles(16, 64, 8, 1),
    Key("backward_kv", 128, "half"): Tiles(32, 128, 8, 2),
    Key("backward_kv", 128, "heavy"): Tiles(32, 64, 8, 2),
    Key("backward_kv", 128, "fp32"): Tiles(16, 16, 4, 1),
    Key("backward_kv", 256, "half"): Tiles(64, 32, 8, 1),
    Key("backward_kv", 256, "fp32"): Tiles(16, 16, 4, 1),
    Key("backward_q", 64, "half"): Tiles(128, 64, 8, 2),
    Key("backward_q", 64, "narrow"): Tiles(64, 64, 4, 2),
    Key("backward_q", 64, "fp32"): Tiles(64, 32, 4, 1),
    Key("backward_q", 128, "half"): Tiles(128, 64, 8, 2),
    Key("backward_q", 128, "narrow"): Tiles(64, 64, 8, 2),
    Key("backward_q", 128, "heavy"): Tiles(128, 32, 8, 2),
    Key("backward_q", 128, "fp32"): Tiles(16, 32, 8, 1),
    Key("backward_q", 256, "half"): Tiles(64, 16, 8, 2),
    Key("backward_q", 256, "fp32"): Tiles(32, 16, 8, 1),
    Key("backward_bias", 64, "half"): Tiles(64, 64, 4, 1),
    Key("backward_bias", 64, "fp32"): Tiles(32, 32, 4, 1),
    Key("backward_bias", 128, "half"): Tiles(32, 64, 4, 1),
    Key("backward_bias", 128, "fp32"): Tiles(16, 16, 4, 1),
    Key("backward_bias", 256, "half"): Tiles(32, 32, 8, 1),
    Key("backward_bias", 256, "fp32"): Tiles(16, 16, 4, 1),
    Key("chunked_forward", 64, "half"): Tiles(64, 64, 4, 1),
    Key("chunked_forward", 64, "fp32"): Tiles(32, 32, 4, 1),
    Key("chunked_forward", 128, "half"): Tiles(64, 32, 4, 1),
    Key("chunked_forward", 128, "fp32"): Tiles(16, 32, 8, 1),
    Key("chunked_forward", 256, "half"): Tiles(32, 32, 8, 1),
    Key("chunked_forward", 256, "fp32"): Tiles(16, 16, 8, 1),
    Key("chunked_backward_kv", 64, "half"): Tiles(32, 64, 4, 1),
    Key("chunked_backward_kv", 64, "fp32"): Tiles(16, 16, 4, 1),
    Key("chunked_backward_kv", 128, "half"): Tiles(64, 32, 8, 1),
    Key("chunked_backward_kv", 128, "fp32"): Tiles(16, 16, 4, 1),
    Key("chunked_backward_kv", 256, "half"): Tiles(32, 32, 8, 1),
    Key("chunked_backward_kv", 256, "fp32"): Tiles(32, 16, 8, 1),
    Key("chunked_backward_q", 64, "half"): Tiles(64, 64, 4, 1),
    Key("chunked_backward_q", 64, "fp32"): Tiles(64, 32, 4, 1),
    Key("chunked_backward_q", 128, "half"): Tiles(64, 32, 8, 1),
    Key("chunked_backward_q", 128, "fp32"): Tiles(16, 16, 8, 1),
    Key("chunked_backward_q", 256, "half"): Tiles(32, 32, 8, 1),
    Key("chunked_backward_q", 256, "fp32"): Tiles(32, 16, 8, 1),
}

NOT_TUNED: Mapping[Key, Tiles] = MappingProxyType({})
# The sizes that a tile may have, by the names of `Tiles`.
SIZES = {
    "block_m": (16, 32, 64, 128),
    "block_n": (16, 32, 64, 128),
    "num_warps": (4, 8),
    "num_stages": (1, 2, 3, 4),
    "descriptors": (False, True),
}
_DESCRIBED = ("forward", "backward_kv", "backward_q")  # passes with loops over whole tiles


def rows_of_tile(kernel: str, tiles: Tiles) -> int:
    """Rows that a program writes, of queries or in a backward_kv of keys."""
    return tiles.block_n if kernel.endswith("backward_kv") else tiles.block_m


def allowed(key: Key, tiles: Tiles) -> bool:
    """Whether a kernel supports such tiles; whether they fit a chip is not checked."""
    if not all(getattr(tiles, name) in sizes for name, sizes in SIZES.items()):
        return False
    if tiles.descriptors and (key.kernel not in _DESCRIBED or key.kind == "fp32"):
        return False
    if key.kernel.startswith("chunked") and rows_of_tile(key.kernel, tiles) > TILE_LEN:
        return False
    # The kernel of the bias rotates a tile within its keys.
    return key.kernel != "backward_bias" or tiles.block_m <= tiles.block_n


def with_descriptors(tiles_of: Mapping[Key, Tiles]) -> dict[Key, Tiles]:
    """The same tiles, read through tensor descriptors where their pass has such loops."""
    described = {key: tiles._replace(descriptors=True) for key, tiles in tiles_of.items()}
    return {key: tiles if allowed(key, tiles) else tiles_of[key] for key, tiles in described.items()}


@cache
def chip_of(device: torch.device) -> Chip:
    """The chip behind a device. Interpreted: a small one, so that tests split keys."""
    if interpreted():
        return Chip("interpreter", 2**20, 16)
    driver = triton.runtime.driver.active
    target = driver.get_current_target()
    arch = f"sm_{target.arch}" if target.backend == "cuda" else str(target.arch)
    index = driver.get_current_device() if device.index is None else device.index
    found = driver.utils.get_device_properties(index)
    return Chip(arch, found["max_shared_mem"], found["multiprocessor_count"])


def power_of_two(n: int) -> int:
    """The least power of two >= n, n >= 1; triton's own function takes microseconds per launch."""
    return 1 << (n - 1).bit_length()


def block_dim(head_dim: int) -> int:
    """The padded head dim of a tile: a power of two that the tensor cores support."""
    return max(16, power_of_two(head_dim))


def choose_tiles(
    chip: Chip,
    kernel: str,
    head_dim: int,
    dtype: torch.dtype,
    window: int,
    num_rows: int,
    heavy: bool = False,
    tuned: Mapping[Key, Tiles] = NOT_TUNED,
) -> Tiles:
    """Tiles of one pass.

    Args:
        chip: the GPU.
        kernel: as in `Key`.
        head_dim: the larger of head_dim and head_dim_v.
        dtype: of q, k and v.
        window: keys that a query sees at most.
        num_rows: rows of one sequence, times a group's heads where they share a tile.
        heavy: with options that need many registers.
        tuned: tiles of `lckernels tune` for the chip; they have precedence over TABLE.

    Returns:
        The tiles, which fit the chip's shared memory.
    """
    room = max(64, block_dim(head_dim))
    rooms = (192, room) if 128 < head_dim <= 192 else (room,)
    keys = (Key(kernel, size, kind) for kind in _kinds(dtype, window, heavy) for size in rooms)
    key = next(key for key in keys if key in TABLE)
    tiles = tuned.get(key, TABLE[key])
    if kernel == "forward" and num_rows <= 64:
        rows = max(16, power_of_two(num_rows))
        rows = min(rows, tiles.block_m if dtype != torch.float32 else min(tiles.block_m, 32))
        wide = room == 256 and (rows > 16 or dtype == torch.float32)
        tiles = tiles._replace(block_m=rows, num_warps=8 if wide else 4)
    return fitted(tiles, room * dtype.itemsize, chip.shared_memory)


def _kinds(dtype: torch.dtype, window: int, heavy: bool) -> list[str]:
    """The kinds of a problem, the most specific first."""
    if dtype == torch.float32:
        return ["fp32"]
    special = {"heavy": heavy, "narrow": window <= NARROW_WINDOW}
    return [kind for kind, is_so in special.items() if is_so] + ["half"]


def fitted(tiles: Tiles, row_bytes: int, shared_memory: int) -> Tiles:
    """Fewer stages, then smaller tiles, until two operands of each side fit in shared memory.

    Args:
        tiles: the sizes to reduce.
        row_bytes: bytes of one row of an operand.
        shared_memory: bytes of shared memory of a block.
    """

    def needed(t: Tiles) -> int:
        return 2 * row_bytes * (t.block_m + t.num_stages * t.block_n)

    while needed(tiles) > shared_memory and tiles.num_stages > 1:
        tiles = tiles._replace(num_stages=tiles.num_stages - 1)
    while needed(tiles) > shared_memory and max(tiles[:2]) > 16:
        tiles = tiles._replace(block_m=max(tiles.block_m // 2, 16), block_n=max(tiles.block_n // 2, 16))
    return tiles


def dot_precision(chip: Chip, head_dim: int) -> str:
    """The precision of tl.dot for fp32; never plain tf32.

    Three tf32 products on NVIDIA's tensor cores, accurate to fp32's rounding; FMA where their operands do not
    fit in registers, and on other chips.
    """
    in_parts = chip.arch.startswith("sm_") and block_dim(head_dim) <= 128
    return "tf32x3" if in_parts else "ieee"


def choose_splits(chip: Chip, programs: int, window: int) -> int:
    """Number of splits of the keys; more than 1 where there are fewer tiles than the chip runs at once."""
    wanted = 2 * chip.num_sms // max(programs, 1)
    return max(1, min(wanted, window // _SPLIT_KEYS, MAX_SPLITS))
