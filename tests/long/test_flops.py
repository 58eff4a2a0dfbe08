"""The formulas of lckernels.flops equal what torch counts, and sizes are printed with their units."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import lckernels
from lckernels.flops import attention_flops, encoder_flops, format_bytes, format_flops, window_pairs
from lckernels.long.run import chunks_of


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


@pytest.mark.parametrize(("before", "after"), [(None, None), (0, 0), (2, 3), (5, None), (20, 4)])
def test_pairs_of_a_window(before, after):
    for length in (1, 2, 7, 30):
        near = [
            (i, j)
            for i in range(length)
            for j in range(length)
            if (before is None or i - j <= before) and (after is None or j - i <= after)
        ]
        assert window_pairs(length, before, after) == len(near)


def test_flops_of_layers_with_windows():
    full = encoder_flops(60, [40, 20], 2, 16, 24)
    assert encoder_flops(60, [40, 20], 2, 16, 24, [(None, None)] * 2) == full
    pairs = window_pairs(40, 3, 3) + window_pairs(20, 3, 3)
    saved = attention_flops(40**2 + 20**2 - pairs, 1, 16, 16)
    assert encoder_flops(60, [40, 20], 2, 16, 24, [(3, 3), (None, None)]) == full - saved


def test_explain_counts_the_keys_of_each_window():
    """ModernBERT with one full layer of four; after `patch(window=)` that layer has a window too."""
    pytest.importorskip("transformers")
    from helpers.head_models import head_model

    model = head_model("modernbert", "TokenClassification").model
    encoder = lckernels.LongEncoder(model, 32, 8)
    widths = chunks_of(encoder.chunking, 200, None).widths
    for window in (None, 9):
        if window:
            lckernels.patch(model, window=window)
        said = encoder.explain(200)
        layers = [(layer.before, layer.after) for layer in said.reach.layers]
        assert sorted({side for layer in layers for side in layer}, key=str) == ([4] if window else [4, None])
        for flops, lengths in ((said.flops, widths), (said.flops_one_piece, [200])):
            pairs = sum(window_pairs(length, *layer) for layer in layers for length in lengths)
            dense = 4 * sum(lengths) * 4 * 16 * (2 * 16 + 24)
            assert flops == dense + attention_flops(pairs, 1, 16, 16)
