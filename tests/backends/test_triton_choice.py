"""The Triton backend without its kernels: unsupported problems, choice of tiles, compiling ahead of time."""

import pytest
import torch

from lckernels.backends import triton
from lckernels.backends.registry import Problem

pytest.importorskip("triton", reason="Triton is not installed")

from bench.compile import triton_compile
from bench.compile.triton_variants import ChunkedVariant, MemoryVariant, Variant
from bench.gpu import ops as gpu_ops
from lckernels.backends.triton import tiles, tuned

KERNELS = (
    "forward", "backward_kv", "backward_q", "backward_bias", "chunked_forward", "chunked_backward_kv",
    "chunked_backward_q",
)  # fmt: skip
CHIPS = {
    "sm_90": tiles.Chip("sm_90", 227 * 1024, 132),
    "sm_86": tiles.Chip("sm_86", 99 * 1024, 84),
    "gfx942": tiles.Chip("gfx942", 64 * 1024, 304),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def problem(**change):
    given = {
        "op": "windowed_attention",
        "device_type": "cuda",
        "dtype": torch.bfloat16,
        "shapes": ((1, 9, 4, 64),) * 3,
    }
    return Problem(**(given | change))


def test_reasons_name_what_is_unsupported(monkeypatch):
    monkeypatch.setattr(triton, "unavailable", lambda: "")
    monkeypatch.setattr(triton, "interpreted", lambda: False)
    assert triton.reasons(problem()) == []
    assert triton.reasons(problem(op="overlap_merge", dtype=torch.float64, shapes=((3, 8, 999),))) == []
    for change, words in (
        ({"device_type": "cpu"}, "on a GPU, not on cpu"),
        ({"dtype": torch.float64}, "no kernel for torch.float64"),
        ({"shapes": ((1, 9, 4, 64), (1, 9, 4, 64), (1, 9, 4, 257))}, "largest head dim is 256, got 257"),
        ({"shapes": ((1, 2**30 + 1, 4, 64),) * 3}, "longest sequence has 1073741824 positions"),
        ({"op": "overlap_add"}, "no kernel for overlap_add"),
    ):
        (reason,) = triton.reasons(problem(**change))
        assert words in reason


def test_the_interpreter_is_used_on_request_only(monkeypatch):
    monkeypatch.setattr(triton, "unavailable", lambda: "")
    monkeypatch.setattr(triton, "interpreted", lambda: True)
    asked = {"device_type": "cpu", "explicit": True}
    assert triton.reasons(problem(**asked, dtype=torch.float16)) == []
    assert "wrong results for products of bf16" in triton.reasons(problem(**asked))[0]
    assert "only with backend='triton'" in triton.reasons(problem(device_type="cpu", dtype=torch.float16))[0]


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_tiles_fit(kernel, chip):
    """Powers of two of at least 16, whose operands fit in shared memory."""
    for dtype in DTYPES:
        for head_dim in (1, 16, 33, 64, 96, 128, 200, 256):
            for window in (1, 128, 129, 2**30):
                for num_rows in (1, 17, 64, 65, 10**6):
                    found = tiles.choose_tiles(chip, kernel, head_dim, dtype, window, num_rows)
                    for size in (found.block_m, found.block_n):
                        assert size >= 16 and size & (size - 1) == 0
                    row_bytes = max(64, tiles.block_dim(head_dim)) * dtype.itemsize
                    operands = 2 * row_bytes * (found.block_m + found.num_stages * found.block_n)
                    assert operands <= chip.shared_memory, (head_dim, dtype, window, num_rows)
                    assert found.num_stages >= 1 and found.num_warps in (4, 8)
                    if kernel == "backward_bias":
                        assert found.block_m <= found.block_n
                    if kernel.startswith("chunked"):
                        assert tiles.rows_of_tile(kernel, found) <= 64


def test_splits_fill_the_chip_and_no_more():
    chip = CHIPS["sm_90"]
    assert tiles.choose_splits(chip, 8, 2**17) == 33
    assert tiles.choose_splits(chip, 8, 1000) == 3, "a split has at least 256 keys"
    assert tiles.choose_splits(chip, 1, 2**20) == tiles.MAX_SPLITS
    for programs in (264, 5000, 0):
        assert tiles.choose_splits(chip, programs, 2**17) == (1 if programs else tiles.MAX_SPLITS)


def test_plain_tf32_is_never_chosen():
    for chip in CHIPS.values():
        for head_dim in (16, 64, 128, 192, 256):
            assert tiles.dot_precision(chip, head_dim) in ("tf32x3", "ieee")
    assert tiles.dot_precision(CHIPS["gfx942"], 64) == "ieee"


def test_a_call_through_descriptors(monkeypatch):
    """A benchmark on a GPU runs it in turns with the call without descriptors."""
    chips = iter([CHIPS["sm_90"], CHIPS["sm_86"], CHIPS["gfx942"]])
    monkeypatch.setattr(tiles, "chip_of", lambda _: next(chips))
    call = gpu_ops.through_descriptors(
        lambda: tuned.tiles(CHIPS["sm_90"])[tiles.Key("forward", 64, "half")].descriptors, "cuda"
    )
    assert call() is True and not tuned.tiles(CHIPS["sm_90"])
    for name in ("sm_86", "gfx942"):
        with pytest.raises(ValueError, match=f"{name} has no TMA"):
            gpu_ops.through_descriptors(lambda: (), "cuda")


def test_whole_tiles_are_copied_with_a_descriptor():
    variant = Variant("forward", 64, torch.bfloat16, descriptors=True)
    assert variant.name.endswith("-tma")
    (kernel,) = triton_compile.compile_all([variant], "sm_90")
    assert kernel.tma > 0 and kernel.copies > 0, "masked tiles are read by threads"
    assert triton_compile.faults([kernel], "sm_90") == []


def test_every_op_has_variants():
    """Each runs on the meta device up to its launches."""
    chunked = [
        ChunkedVariant(direction, 64, torch.bfloat16, "extra") for direction in ("forward", "backward")
    ]
    merges = [
        MemoryVariant(op, direction, torch.bfloat16, "explicit" if op == "overlap_merge" else "")
        for op in ("overlap_merge", "overlap_split", "merge_attention_states")
        for direction in ("forward", "backward")
    ]
    found = triton_compile.compile_all([*chunked, *merges], "sm_90")
    assert {kernel.kernel for kernel in found} == {
        "_merge_weights_kernel", "chunked_forward_kernel", "chunked_backward_q_kernel",
        "chunked_backward_kv_kernel", "_gather_kernel", "_scatter_kernel", "_forward_kernel",
        "_backward_kernel",
    }  # fmt: skip
    assert triton_compile.faults(found, "sm_90") == []


def test_a_kernel_compiles_without_a_gpu():
    variant = Variant("forward", 64, torch.bfloat16)
    (kernel,) = triton_compile.compile_all([variant], "sm_90")
    assert kernel.kernel == "attention_forward_kernel" and kernel.variant == variant.name
    assert kernel.wgmma > 0 and kernel.mma == 0 and kernel.copies > 0 and kernel.tma == 0
    assert kernel.registers > 100
    assert triton_compile.faults([kernel], "sm_90") == []
    assert kernel.kernel in triton_compile.table([kernel])
    spilled = kernel._replace(spills=3, wgmma=0, shared=2**20)
    words = ("bytes of shared memory", "3 spills", "no wgmma", "no product on the matrix units")
    for word, fault in zip(words, triton_compile.faults([spilled], "sm_90"), strict=True):
        assert word in fault
    described = kernel._replace(variant=f"{variant.name}-tma")
    (fault,) = triton_compile.faults([described], "sm_90")
    assert fault.endswith("no TMA")
    around = kernel._replace(variant=variant.name.replace("h8:8", "h8:2"), spills=3)
    assert triton_compile.faults([around], "sm_90") == [], "around the steps of a group's heads"
    (fault,) = triton_compile.faults([around._replace(step_spills=1)], "sm_90")
    assert fault.endswith("1 spills")
    with_features = spilled._replace(variant=f"{variant.name}-score")
    fault, _ = triton_compile.faults([with_features], "sm_90")
    assert "bytes of shared memory" in fault, "what an option costs in registers is no fault"
    assert triton_compile.faults([kernel._replace(wgmma=0, variant="forward-d64-float32-x")], "sm_90") == []
