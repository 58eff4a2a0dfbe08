"""The host time of a call against torch's: windowed_attention over 64 keys, a decode step of SmolLM2."""

import pytest
import torch

from bench.cases import smollm2
from bench.suites import host_time


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("direction", host_time.DIRECTIONS)
def test_attention_over_64_keys(direction: str, dtype: torch.dtype, store):
    store(host_time.attention_rows(direction, dtype))


def test_decode_step_of_smollm2(store, log):
    if smollm2.missing():
        log(f"  skipped: {smollm2.missing()}")
        pytest.skip(smollm2.missing())
    store(host_time.model_rows())
