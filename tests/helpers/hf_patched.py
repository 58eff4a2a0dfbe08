"""Tiny models and inputs that the tests of lckernels.patch share."""

import inspect

import torch
import transformers
from helpers.hf_models import VOCAB, build

IDS = torch.randint(5, VOCAB, (2, 21), generator=torch.Generator().manual_seed(3))
MASK = torch.ones_like(IDS)
MASK[1, :6] = 0
VALID = MASK.bool()


def tiny_mistral(**sizes):
    """A causal model whose layers have a window of 7; 64 tokens in its vocabulary."""
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=7, max_position_embeddings=128, **sizes,
    )  # fmt: skip
    config._attn_implementation = "eager"
    return transformers.MistralForCausalLM(config).eval()


def model_of(name, implementation="eager"):
    model = build(name)
    model.set_attn_implementation(implementation)
    return model


def logits(model, **inputs):
    inputs = inputs or {"input_ids": IDS, "attention_mask": MASK}
    with torch.no_grad():
        output = model(**inputs)
    return output[0]


def with_cache(model, cache):
    """The argument of a forward for a cache; transformers 5.24 renamed it."""
    names = inspect.signature(type(model).forward).parameters
    return {next(name for name in ("cache", "past_key_values") if name in names): cache}


def attributes(model):
    return [{name: id(value) for name, value in module.__dict__.items()} for module in model.modules()]


def close(ours, expected, mask=VALID):
    torch.testing.assert_close(ours[mask], expected[mask], rtol=1e-5, atol=1e-5)
