"""Tiny encoders whose layers attend to windows and whose positions are relative, in fp64."""

from contextlib import contextmanager, nullcontext
from types import MethodType

import torch
import transformers
from helpers.encoder_models import SIZES, VOCAB, WIDE

import lckernels


def t5(num_layers=2):
    """T5's encoder, with full attention."""
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=24, num_layers=num_layers, num_heads=2,
        relative_attention_num_buckets=8, relative_attention_max_distance=16,
    )  # fmt: skip
    return transformers.T5EncoderModel(config).eval().double()


def longt5():
    """LongT5's encoder with local attention, 3 keys to each side."""
    torch.manual_seed(0)
    config = transformers.LongT5Config(
        vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, local_radius=3,
        encoder_attention_type="local", relative_attention_num_buckets=8,
    )  # fmt: skip
    return transformers.LongT5EncoderModel(config).eval().double()


def modernbert(num_layers=2, **sizes):
    """ModernBERT with 4 keys to each side in every layer; its rotary embedding computes in fp64."""
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(
        **{**SIZES, **WIDE, "num_hidden_layers": num_layers}, local_attention=8, max_position_embeddings=512,
        layer_types=["sliding_attention"] * num_layers, initializer_range=0.2, cls_token_id=3, sep_token_id=4,
        bos_token_id=3, eos_token_id=4, **sizes,
    )  # fmt: skip
    model = transformers.ModernBertModel(config).eval().double()
    model.rotary_emb.forward = MethodType(_rotary, model.rotary_emb)
    return model


def _rotary(module, x, position_ids, layer_type):
    # transformers computes angles in fp32, whose rounding depends on the position.
    angles = position_ids[..., None].double() * getattr(module, f"{layer_type}_inv_freq").double()
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


# Model, window of a patch, and its reach before and after a token.
WINDOWED = {
    "t5, window 8": (t5, 8, (8, 8)),
    "t5, window (3, 2)": (t5, (3, 2), (6, 4)),
    "t5, window (2, 4)": (t5, (2, 4), (4, 8)),
    "t5, 3 layers, window 5": (lambda: t5(3), 5, (6, 6)),
    "longt5": (longt5, None, (6, 6)),
    "modernbert": (modernbert, None, (8, 8)),
    "modernbert, 1 layer": (lambda: modernbert(1), None, (4, 4)),
}


@contextmanager
def windowed(name):
    """The model, patched if it has a window of a patch, and its reach."""
    make, window, reach = WINDOWED[name]
    model = make()
    with lckernels.patched(model, window=window) if window else nullcontext():
        yield model, reach
