"""Rotary embeddings with dynamic frequencies, which a model stores from one call to the next."""

import torch
from torch import nn


def dynamic_rotary(model: nn.Module) -> list[nn.Module]:
    """The rotary embeddings whose frequencies depend on the longest sequence so far."""
    types = ((module, getattr(module, "rope_type", None)) for module in model.modules())
    return [module for module, rope_type in types if isinstance(rope_type, str) and "dynamic" in rope_type]


def reset_frequencies(rotary: list[nn.Module], device: torch.device) -> None:
    """Sets the frequencies to those of a fresh model.

    transformers does so in a call with fewer tokens than positions, but not with exactly as many.
    """
    with torch.no_grad():
        for module in rotary:
            module(torch.zeros(1, device=device), torch.zeros(1, 1, dtype=torch.long, device=device))
