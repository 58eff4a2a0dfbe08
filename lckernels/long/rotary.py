"""Rotary embeddings with dynamic frequencies, which a model stores from one call to the next."""

import torch
from torch import nn

Rotary = tuple[nn.Module, dict[str, str]]  # a module, and its arguments beside states and positions


def dynamic_rotary(model: nn.Module) -> list[Rotary]:
    """The rotary embeddings whose frequencies depend on the longest sequence so far.

    A module with frequencies for each type of layer is found once for each such type.
    """
    found: list[Rotary] = []
    for module in model.modules():
        own = getattr(module, "rope_type", None)
        types = own if isinstance(own, dict) else {None: own}
        for layer_type, rope_type in types.items():
            if isinstance(rope_type, str) and "dynamic" in rope_type:
                found.append((module, {} if layer_type is None else {"layer_type": layer_type}))
    return found


def reset_frequencies(rotary: list[Rotary], device: torch.device) -> None:
    """Sets the frequencies to those of a fresh model.

    transformers does so in a call with fewer tokens than positions, but not with exactly as many.
    """
    with torch.no_grad():
        for module, arguments in rotary:
            positions = torch.zeros(1, 1, dtype=torch.long, device=device)
            module(torch.zeros(1, device=device), positions, **arguments)
