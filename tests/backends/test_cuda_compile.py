"""The checks of nvcc's output, on invented kernels."""

import shutil

import pytest

from bench.compile import cuda_compile, sass
from bench.compile.sass import Kernel

FORWARD = "_ZN3lck17attention_forwardI13__nv_bfloat16Li128ELb0EEEvNS_18GpuAttentionParamsEl"
FULL = FORWARD.replace("Lb0E", "Lb1E")
NAMES = {FORWARD: "attention_forward<bfloat16, 128, false>", FULL: "attention_forward<bfloat16, 128, true>"}


def kernel(name: str, *codes: str) -> Kernel:
    return Kernel(name, "sm_90", 200, list(codes), [])


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="no c++filt")
def test_names_are_short():
    assert cuda_compile.short_names([FORWARD, FULL]) == NAMES


def test_a_good_kernel_has_no_faults():
    assert cuda_compile.faults([kernel(FORWARD, "HMMA", "FADD")], NAMES, {FORWARD: (256, 69632)}) == []


def test_spills_count_in_kernels_without_features():
    found = [kernel(name, "HMMA", "STL", "LDL") for name in (FORWARD, FULL)]
    assert cuda_compile.faults(found, NAMES, {}) == [f"{NAMES[FORWARD]}, sm_90: 2 spills"]


def test_tensor_core_products_and_shared_memory_are_checked():
    found = [kernel(FORWARD, "FFMA")]
    no_product, too_much = cuda_compile.faults(found, NAMES, {FORWARD: (256, 228 * 1024)})
    assert "no product on the matrix units" in no_product
    assert "233472 bytes of shared memory" in too_much


@pytest.mark.parametrize(
    "name, most",
    [
        ("attention_forward<float16, 96, true>", 99),
        ("attention_forward<float16, 128, true>", 143),
        ("chunked_forward<bfloat16, 64, true, false>", 99),
        ("chunked_forward<bfloat16, 128, true, false>", 143),
        ("overlap_merge<float, 16>", 99),
    ],
)
def test_small_chips_have_room_for_small_heads(name, most):
    assert cuda_compile.shared_limit(name) == most * 1024


def test_a_renamed_kernel_is_not_overlooked():
    assert cuda_compile.faults([], {"x": "attend<64>"}, {}) == [
        "no kernel that multiplies is known by its name"
    ]


def test_the_table_has_a_row_a_kernel():
    lines = cuda_compile.table(
        [kernel(FORWARD, "HMMA", "LDGSTS")], NAMES, {FORWARD: (256, 69632)}
    ).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == [f"`{NAMES[FORWARD]}`", "sm_90", "256", "69632", "200", "0", "2", "1", "1"]


def test_steps_are_the_loops_that_hold_no_other():
    lines = [
        "STL [R1], R2",
        "MOV R1, R2",
        "HGMMA 64x64",
        "@P0 BRA 0x20",
        "LDL R1",
        "@!P1 BRA 0x10",
        "BRA 0x80",
        "EXIT",
    ]
    body = "\n".join(f"        /*{16 * at:04x}*/                   {line} ;" for at, line in enumerate(lines))
    codes, steps = sass._codes(body)
    assert codes == ["STL", "MOV", "HGMMA", "BRA", "LDL", "BRA", "BRA", "EXIT"]
    assert steps == ["HGMMA", "BRA"]
