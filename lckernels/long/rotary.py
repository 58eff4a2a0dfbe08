"""Rotary embeddings whose frequencies depend on the length of a row; dynamic ones stay for later calls."""

import torch
from torch import nn

from lckernels.rope_types import DYNAMIC, LONGROPE, depends_on_length, rope_types

Rotary = tuple[nn.Module, dict[str, str]]  # a module, and its arguments beside states and positions


def dynamic_rotary(model: nn.Module) -> list[Rotary]:
    """The rotary embeddings whose frequencies depend on the longest sequence so far.

    A module with frequencies for each type of layer is found once for each such type.
    """
    return [
        (module, {} if layer_type is None else {"layer_type": layer_type})
        for module, layer_type, rope_type in rope_types(model)
        if DYNAMIC in rope_type
    ]


def rope_by_length(model: nn.Module) -> str:
    """The rope_type whose frequencies depend on the length of a row; empty if none do."""
    types = (rope_type for _, _, rope_type in rope_types(model))
    return next(filter(depends_on_length, types), "")


def length_borders(model: nn.Module) -> tuple[int, ...]:
    """Lengths beyond which a row, and all rows of its batch, have other frequencies (rope_type longrope)."""
    found = set()
    for module, layer_type, rope_type in rope_types(model):
        if rope_type == LONGROPE:
            parameters = module.config.rope_parameters
            of_layer = parameters if layer_type is None else parameters[layer_type]
            found.add(int(of_layer["original_max_position_embeddings"]))
    return tuple(sorted(found))


def reset_frequencies(rotary: list[Rotary], device: torch.device) -> None:
    """Sets the frequencies to those of a fresh model.

    transformers does so in a call with fewer tokens than positions, but not with exactly as many.
    """
    with torch.no_grad():
        for module, arguments in rotary:
            positions = torch.zeros(1, 1, dtype=torch.long, device=device)
            module(torch.zeros(1, device=device), positions, **arguments)
