"""The choice of tiles: a pure function of the chip and the problem, without measuring at the first call.

Cost model. A tile of queries runs over ceil((BLOCK_M + window - 1) / BLOCK_N) tiles of keys (one more where
its window does not begin at a tile's edge), of which 2 * BLOCK_M / BLOCK_N are masked: small tiles waste less
of a narrow window, large ones reuse more of what is loaded. Registers bound both: an accumulator of BLOCK_M x
head_dim fp32 and the scores of BLOCK_M x BLOCK_N lie in them, twice the operands besides for fp32 on tensor
cores. The sizes are the largest that `python -m bench.triton_compile` shows without spills on sm_90; no GPU
has timed them yet.
"""

from functools import cache
from typing import NamedTuple

import torch
import triton

from lckernels.backends.triton.launch import interpreted

NARROW_WINDOW = 128  # up to so many keys tiles are small
MAX_SPLITS = 64
_SPLIT_KEYS = 256  # a split has no fewer keys


class Tiles(NamedTuple):
    """A tile's sizes (queries x keys) and how Triton compiles its kernel."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


class Chip(NamedTuple):
    """What the choice depends on."""

    arch: str  # sm_90, gfx942
    shared_memory: int  # bytes of a program
    num_sms: int


# Pass -> room of the head dim, no more than -> tiles of bf16 and fp16, tiles of fp32.
_TABLE = {
    "forward": {
        64: (Tiles(128, 64, 4, 3), Tiles(64, 32, 8, 2)),
        128: (Tiles(128, 64, 8, 3), Tiles(32, 16, 8, 1)),
        256: (Tiles(128, 32, 8, 2), Tiles(16, 16, 4, 1)),
    },
    "backward_kv": {
        64: (Tiles(64, 128, 8, 2), Tiles(32, 32, 8, 1)),
        128: (Tiles(32, 128, 8, 2), Tiles(16, 16, 4, 1)),
        256: (Tiles(64, 32, 8, 1), Tiles(16, 16, 4, 1)),
    },
    "backward_q": {
        64: (Tiles(128, 64, 8, 2), Tiles(64, 32, 4, 1)),
        128: (Tiles(128, 64, 8, 2), Tiles(16, 16, 4, 1)),
        256: (Tiles(64, 32, 8, 2), Tiles(32, 32, 8, 1)),
    },
    "backward_bias": {
        64: (Tiles(64, 64, 4, 1), Tiles(32, 32, 4, 1)),
        128: (Tiles(32, 64, 4, 1), Tiles(16, 16, 4, 1)),
        256: (Tiles(32, 32, 8, 1), Tiles(16, 16, 4, 1)),
    },
    "chunked": {
        64: (Tiles(64, 64, 4, 1), Tiles(32, 32, 4, 1)),
        128: (Tiles(32, 64, 8, 1), Tiles(16, 16, 4, 1)),
        256: (Tiles(32, 32, 8, 1), Tiles(16, 16, 4, 1)),
    },
}
# The same with a narrow window: the tile that walks is 64 wide.
_NARROW = {
    ("forward", 64): Tiles(64, 64, 4, 2),
    ("forward", 128): Tiles(64, 64, 8, 2),
    ("backward_kv", 64): Tiles(32, 64, 4, 2),
    ("backward_q", 64): Tiles(64, 64, 4, 2),
    ("backward_q", 128): Tiles(64, 64, 8, 2),
}
# The same where options need registers: softcap, bias, dropout, masks by key.
_HEAVY = {
    ("forward", 64): Tiles(128, 64, 8, 3),
    ("backward_kv", 64): Tiles(32, 128, 8, 2),
    ("backward_kv", 128): Tiles(32, 64, 8, 2),
    ("backward_q", 128): Tiles(128, 32, 8, 2),
}


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


def block_dim(head_dim: int) -> int:
    """The head dim's room in a tile: a power of two that the matrix units take."""
    return max(16, triton.next_power_of_2(head_dim))


def choose_tiles(
    chip: Chip,
    kernel: str,
    head_dim: int,
    dtype: torch.dtype,
    window: int,
    num_rows: int,
    heavy: bool = False,
) -> Tiles:
    """Tiles of one pass.

    kernel: a key of _TABLE. head_dim: the larger of the two. window: keys that a query sees at most.
    num_rows: rows of one text, with a group's heads where they share a tile. heavy: with options that need
    registers.
    """
    room = max(64, block_dim(head_dim))
    half, single = _TABLE[kernel][room]
    tiles = single if dtype == torch.float32 else half
    if dtype != torch.float32:
        if window <= NARROW_WINDOW:
            tiles = _NARROW.get((kernel, room), tiles)
        if heavy:
            tiles = _HEAVY.get((kernel, room), tiles)
    if kernel == "forward" and num_rows <= 64:
        rows = max(16, triton.next_power_of_2(num_rows))
        rows = min(rows, tiles.block_m if dtype != torch.float32 else 32)
        tiles = tiles._replace(block_m=rows, num_warps=8 if room == 256 and rows > 16 else 4)
    return _fitted(tiles, room * dtype.itemsize, chip.shared_memory)


def _fitted(tiles: Tiles, row_bytes: int, shared_memory: int) -> Tiles:
    """Fewer stages, then smaller tiles, until two operands of each side have room in shared memory."""

    def needed(t: Tiles) -> int:
        return 2 * row_bytes * (t.block_m + t.num_stages * t.block_n)

    while needed(tiles) > shared_memory and tiles.num_stages > 1:
        tiles = tiles._replace(num_stages=tiles.num_stages - 1)
    while needed(tiles) > shared_memory and max(tiles[:2]) > 16:
        tiles = tiles._replace(block_m=max(tiles.block_m // 2, 16), block_n=max(tiles.block_n // 2, 16))
    return tiles


def dot_precision(chip: Chip, head_dim: int) -> str:
    """How tl.dot multiplies fp32, never in plain tf32.

    On NVIDIA's tensor cores in three parts of tf32, to fp32's rounding; by FMA where those parts do not fit
    in registers, and on other chips.
    """
    in_parts = chip.arch.startswith("sm_") and block_dim(head_dim) <= 128
    return "tf32x3" if in_parts else "ieee"


def choose_splits(chip: Chip, programs: int, window: int) -> int:
    """Parts of the keys of a tile, where there are fewer tiles than the chip runs at once."""
    wanted = 2 * chip.num_sms // max(programs, 1)
    return max(1, min(wanted, window // _SPLIT_KEYS, MAX_SPLITS))
