"""Triton's kernels compiled ahead of time for a GPU that is not there: registers, spills, shared memory.

`python -m bench.triton_compile` prints the table for sm_90 and fails where a kernel is not what it should be.
`--target sm_80|sm_100|gfx942` compiles for another chip, `--all` takes every variant, `--write FILE` keeps
the table.
"""

import argparse
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import sass
from lckernels import Layout, Score
from lckernels.options import AttentionOptions

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "sm_100": ("cuda", 100, 32),
           "gfx942": ("hip", "gfx942", 64)}  # fmt: skip
SHARED_MEMORY = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}
HAVE_TMA = ("sm_90", "sm_100")
PROCESSES = 2


@dataclass(frozen=True)
class Variant:
    """A call whose kernels are compiled: shapes are what the choice of tiles looks at."""

    direction: str  # forward, backward
    head_dim: int
    dtype: torch.dtype
    window_size: tuple[int, int] = (1023, 0)
    seqlen_q: int = 8192
    num_heads: int = 8
    num_kv_heads: int = 8
    features: str = ""  # of _FEATURES
    descriptors: bool = False  # whole tiles are read through tensor descriptors

    @property
    def name(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        heads = f"h{self.num_heads}:{self.num_kv_heads}"
        window = "{}:{}".format(*self.window_size)
        parts = (self.direction, f"d{self.head_dim}", dtype, f"w{window}", f"q{self.seqlen_q}", heads)
        return "-".join([*parts, *filter(None, [self.features, "tma" if self.descriptors else ""])])


class Compiled(NamedTuple):
    """One kernel of a variant as it came out."""

    variant: str
    kernel: str
    num_warps: int
    shared: int  # bytes
    registers: int
    spills: int  # instructions that load or store local memory
    instructions: int
    wgmma: int  # of them on the matrix units, by warpgroups (sm_90)
    mma: int  # and by warps
    copies: int  # asynchronous, to shared memory, by threads
    tma: int  # and of whole tiles
    seconds: float  # that Triton took for all kernels of the variant

    @property
    def cells(self) -> list[str]:
        return [str(x) for x in self[:-1]] + [f"{self.seconds:.1f}"]


_FEATURES = ("", "score", "dropout", "layout", "packed", "segments")
_HEADER = (
    "variant", "kernel", "warps", "shared", "registers", "spills", "instructions", "wgmma", "mma", "copies",
    "tma", "s",
)  # fmt: skip


def variants(everything: bool) -> Iterator[Variant]:
    """A part for every commit; everything: all whose tiles differ, and every feature in both directions.

    bf16 and fp32 with tensor descriptors too, where there is no feature.
    """
    dtypes = (torch.bfloat16, torch.float32, *((torch.float16,) if everything else ()))
    head_dims = (16, 32, 64, 96, 128, 192, 256) if everything else (64, 128)
    for dtype in dtypes:
        for head_dim in head_dims if dtype != torch.float32 or everything else (64,):
            for window_size in ((1023, 0), (63, 63)) if dtype != torch.float32 else ((1023, 0),):
                for direction in ("forward", "backward"):
                    yield Variant(direction, head_dim, dtype, window_size)
                    if window_size == (1023, 0) and dtype != torch.float16:
                        yield Variant(direction, head_dim, dtype, window_size, descriptors=True)
            yield Variant("forward", head_dim, dtype, (-1, 0), 1, 32, 8)
            yield Variant("forward", head_dim, dtype, (-1, 0), 48, 8, 8)
    for features in _FEATURES[1:]:
        for direction in ("forward", "backward") if everything else ("forward",):
            for head_dim in (64, 128) if everything else (128,):
                yield Variant(direction, head_dim, torch.bfloat16, num_kv_heads=2, features=features)


def options_of(variant: Variant, seqlen_k: int, device: str) -> AttentionOptions:
    """The variant's options; zeros on the meta device have no memory."""

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    layout, score, dropout_p = Layout(), Score(), 0.0
    num_heads, features = variant.num_heads, variant.features
    if features == "score":
        score = Score(30.0, zeros(num_heads, 2000), 1000, zeros(num_heads))
    elif features == "dropout":
        dropout_p = 0.1
    elif features == "layout":
        ints = zeros(1, dtype=torch.int32)
        mask = zeros(1, seqlen_k, dtype=torch.bool)
        layout = Layout(ints, ints, ints, mask, sink_tokens=4, chunk=4096, chunk_origin=ints)
    elif features == "packed":
        bounds = zeros(9, dtype=torch.int32)
        layout = Layout(cu_seqlens_q=bounds, cu_seqlens_k=bounds, sink_tokens=4)
    elif features == "segments":
        layout = Layout(segment_ids=zeros(1, seqlen_k, dtype=torch.int64), sink_tokens=4)
    seed = zeros(1, dtype=torch.int64) if dropout_p else None
    scale = variant.head_dim**-0.5
    return AttentionOptions(variant.window_size, scale, layout, score, dropout_p, seed)


class CompileOnly:
    """A driver of Triton that has a GPU's name and no GPU: what is launched is compiled and kept, not run."""

    def __init__(self, target: str) -> None:
        from triton.backends.compiler import GPUTarget

        self.target, self.shared_memory = GPUTarget(*TARGETS[target]), SHARED_MEMORY[target]
        self.utils, self.found, self._num_warps = self, [], 0

    def activate(self) -> None:
        """From now on Triton compiles for it in this process."""
        warnings.filterwarnings("ignore", message=".*FP_FUSION.*")
        from triton.runtime.driver import driver

        driver.set_active(self)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": self.shared_memory, "multiprocessor_count": 132}

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        self._num_warps = metadata.num_warps
        return lambda *args: None

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple:
        self.found.append((name, self._num_warps, shared, binary))
        return object(), object(), 0, 0, 1024

    def unload_module(self, module: Any) -> None:
        pass


def call_of(variant: Variant, device: str) -> Callable[[], Any]:
    """The variant's call of the Triton backend."""
    from lckernels.backends import triton as backend

    seqlen_k = 8192
    shapes = (
        (1, variant.seqlen_q, variant.num_heads, variant.head_dim),
        (1, seqlen_k, variant.num_kv_heads, variant.head_dim),
    )
    q, k = (torch.zeros(shape, dtype=variant.dtype, device=device) for shape in shapes)
    options = options_of(variant, seqlen_k, device)
    if variant.direction == "forward":
        return partial(backend.windowed_attention, q, k, k, options)
    lse = q.new_zeros(1, variant.num_heads, variant.seqlen_q, dtype=torch.float32)
    return partial(backend.windowed_attention_backward, q, None, q, k, k, q, lse, options)


def compile_variant(variant: Variant, target: str) -> list[Compiled]:
    """The variant's kernels, compiled for the target."""
    from lckernels.backends.triton import tuned
    from lckernels.backends.triton.tiles import TABLE, with_descriptors

    compiler = CompileOnly(target)
    compiler.activate()
    call = call_of(variant, "meta")
    begin = time.perf_counter()
    with tuned.trying(with_descriptors(TABLE) if variant.descriptors else {}):
        call()
    seconds = time.perf_counter() - begin
    if TARGETS[target][0] != "cuda":  # cuobjdump reads cubins alone
        zeros = (0,) * 7  # registers, and what is counted
        return [Compiled(variant.name, *kernel[:3], *zeros, seconds) for kernel in compiler.found]
    return [_read(variant.name, *kernel, seconds) for kernel in compiler.found]


def _read(variant: str, name: str, num_warps: int, shared: int, binary: bytes, seconds: float) -> Compiled:
    """What cuobjdump says of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        (kernel,) = sass.kernels(Path(file.name))
    counted = (
        kernel.count(sass.SPILLS),
        len(kernel.codes),
        *map(kernel.count, (sass.WGMMA, sass.MMA, sass.COPIES, sass.TMA)),
    )
    return Compiled(variant, name, num_warps, shared, kernel.registers, *counted, seconds)


def compile_all(chosen: list[Variant], target: str) -> list[Compiled]:
    """Every variant's kernels, each once, in PROCESSES processes."""
    with ProcessPoolExecutor(PROCESSES) as pool:
        made = pool.map(compile_variant, chosen, [target] * len(chosen))
        return [kernel for kernels in made for kernel in kernels]


def faults(found: list[Compiled], target: str) -> list[str]:
    """What is wrong with kernels: spills without a feature, more shared memory than there is, no wgmma."""
    wrong = []
    for kernel in found:
        name = f"{kernel.variant} {kernel.kernel}"
        if kernel.shared > SHARED_MEMORY[target]:
            wrong.append(
                f"{name}: {kernel.shared} bytes of shared memory, {target} has {SHARED_MEMORY[target]}"
            )
        if target != "sm_90":
            continue
        plain = not kernel.variant.endswith(_FEATURES[1:])
        if plain and kernel.spills:
            wrong.append(f"{name}: {kernel.spills} spills")
        if plain and needs_wgmma(kernel) and not kernel.wgmma:
            wrong.append(f"{name}: no wgmma")
        if kernel.variant.endswith("-tma") and kernel.kernel != "attention_delta_kernel" and not kernel.tma:
            wrong.append(f"{name}: no TMA")
    return wrong


def needs_wgmma(kernel: Compiled) -> bool:
    """All products of half precision, but for tiles of fewer than 64 rows: decoding, dk of wide heads."""
    few_rows = "-q1-" in kernel.variant or "-q48-" in kernel.variant
    wide = kernel.kernel == "attention_backward_kv_kernel" and re.search("-d(192|256)-", kernel.variant)
    multiplies = kernel.kernel not in ("attention_delta_kernel", "merge_splits_kernel")
    return multiplies and "float16" in kernel.variant and not few_rows and not wide


def table(found: list[Compiled]) -> str:
    """A Markdown table, a row a kernel."""
    lines = ["| " + " | ".join(_HEADER) + " |", "|" + "---|" * len(_HEADER)]
    return "\n".join(lines + ["| " + " | ".join(kernel.cells) + " |" for kernel in found])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="sm_90", choices=TARGETS)
    parser.add_argument("--all", action="store_true", help="every dtype, head dim and feature")
    parser.add_argument("--only", default="", help="variants whose names match this regular expression")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args(arguments)
    chosen = [
        v
        for v in variants(options.all)
        if re.search(options.only, v.name) and (options.target in HAVE_TMA or not v.descriptors)
    ]
    begin = time.perf_counter()
    found = compile_all(chosen, options.target)
    text, wrong = table(found), faults(found, options.target)
    print(text)
    print(f"{len(chosen)} variants for {options.target} in {time.perf_counter() - begin:.0f} s")
    print("\n".join(f"FAULT {fault}" for fault in wrong))
    if options.write:
        import triton

        title = f"Triton's kernels compiled for {options.target} by Triton {triton.__version__}, not run"
        options.write.write_text(f"# {title}\n\n{text}\n")
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)
    sys.exit(main())
