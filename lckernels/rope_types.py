"""Which rotary embeddings a model has, by the rope_type of its modules."""

from collections.abc import Iterator

from torch import nn

DYNAMIC, LONGROPE = "dynamic", "longrope"


def depends_on_length(rope_type: str) -> bool:
    """Whether the frequencies of a rope_type depend on the length of the sequence."""
    return DYNAMIC in rope_type or rope_type == LONGROPE


def rope_types(model: nn.Module) -> Iterator[tuple[nn.Module, str | None, str]]:
    """Each module with rotary embeddings, the type of layer they are for, and their rope_type."""
    for module in model.modules():
        own = getattr(module, "rope_type", None)
        types = own if isinstance(own, dict) else {None: own}
        yield from ((module, layer, name) for layer, name in types.items() if isinstance(name, str))
