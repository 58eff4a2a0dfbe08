"""The formulas of lckernels.flops equal what torch counts, and sizes are printed with their units."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lckernels.flops import attention_flops, encoder_flops, format_bytes, format_flops


def test_attention_flops():
    q, k, v = torch.randn(3, 5, 8), torch.randn(3, 7, 8), torch.randn(3, 7, 4)
    with FlopCounterMode(display=False) as counted:
        (q @ k.mT).softmax(-1) @ v
    assert attention_flops(5 * 7, 3, 8, 4) == counted.get_total_flops()


def test_encoder_flops():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        attn_implementation="eager",
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model(torch.zeros(2, 11, dtype=torch.long))
    assert encoder_flops(22, [11, 11], 3, 16, 24) == counted.get_total_flops()


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 FLOP"), (999_999, "999,999 FLOP"), (2.5e6, "2.50 MFLOP"), (1e12, "1.00 TFLOP")]
)
def test_format_flops(count, text):
    assert format_flops(count) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (1, "1 byte"), (1536, "1.5 KiB"), (2**40, "1,024.0 GiB")]
)
def test_format_bytes(size, text):
    assert format_bytes(size) == text
