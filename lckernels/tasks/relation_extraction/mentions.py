"""Entities of a text as an argument: each is one span, or the list of its mentions."""

from collections.abc import Sequence
from typing import Any

from lckernels.checks import bad
from lckernels.tasks.results import Span

Mention = Span | tuple[int, int]
EntitySpans = Mention | Sequence[Mention]

_EXPECTED = "expected a span, as (start, end) or of lckernels.tasks, or the list of an entity's mentions"


def is_mention(x: Any) -> bool:
    """Whether x is one span; the list of the mentions of an entity begins with one."""
    return isinstance(x, Span) or (isinstance(x, Sequence) and len(x) == 2 and not _is_nested(x[0]))


def _is_nested(x: Any) -> bool:
    return isinstance(x, Span | Sequence)


def mentions_of(name: str, entities: Any) -> list[list[tuple[int, int]]]:
    """(start, end) of the mentions of each entity; their values are not checked.

    Args:
        name: of the argument, for messages.
        entities: a span each, or a list of spans each.

    Raises:
        ValueError: an entity without a mention, or no entities at all.
    """
    if not isinstance(entities, Sequence) or isinstance(entities, str | bytes):
        raise bad(name, type(entities).__name__, f"expected a list with an item for each entity; {_EXPECTED}")
    return [_mentions(f"{name}[{i}]", entity) for i, entity in enumerate(entities)]


def _mentions(name: str, entity: Any) -> list[tuple[int, int]]:
    if is_mention(entity):
        return [_pair(entity)]
    if not isinstance(entity, Sequence) or isinstance(entity, str | bytes) or not entity:
        raise bad(name, repr(entity), _EXPECTED)
    for i, mention in enumerate(entity):
        if not is_mention(mention):
            raise bad(f"{name}[{i}]", repr(mention), "expected a span, as (start, end) or of lckernels.tasks")
    return [_pair(mention) for mention in entity]


def _pair(mention: Mention) -> tuple[int, int]:
    return (mention.start, mention.end) if isinstance(mention, Span) else tuple(mention)
