"""Entities and relations as triples: a knowledge graph in JSON lines."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lckernels.checks import bad
from lckernels.files import whole_file
from lckernels.tasks.relation_extraction.mentions import EntitySpans, is_mention, mentions_of
from lckernels.tasks.relation_extraction.relations import Relation, Relations
from lckernels.tasks.results import Span


def triples(
    entities: Sequence[EntitySpans],
    relations: Relations | Sequence[Relation],
    *,
    text: str | None = None,
    document: str | int | None = None,
) -> Iterator[dict[str, Any]]:
    """One dict per relation of a text, with what `json.dumps` can store.

    Args:
        entities: as they were given to `relations`.
        relations: its result, or the part of it that is kept.
        text: the text. Required where entities are pairs of offsets; spans of `lckernels.tasks` have theirs.
        document: what the text is called; goes into each dict.

    Yields:
        {"document", "subject", "relation", "object", "score"}. Subject and object are {"id": the place in
        `entities`, "text", "start", "end", "label", "mentions"}: the first mention's characters, its label
        (null without one), and (start, end) of all mentions.

    Raises:
        ValueError: a relation of an entity that does not exist; pairs of offsets without a text, or outside
            it.
    """
    described = [
        _described(i, entity, mentions, text)
        for i, (entity, mentions) in enumerate(zip(entities, mentions_of("entities", entities), strict=True))
    ]
    found = relations.relations if isinstance(relations, Relations) else list(relations)
    for i, relation in enumerate(found):
        if not (0 <= relation.head < len(described) and 0 <= relation.tail < len(described)):
            got = f"({relation.head}, {relation.tail})"
            raise bad(f"relations[{i}]", got, f"expected places below {len(described)}, that of entities")
    return (
        {
            "document": document,
            "subject": described[relation.head],
            "relation": relation.label,
            "object": described[relation.tail],
            "score": relation.score,
        }
        for relation in found
    )


def write_triples(path: str | Path, triples: Iterable[dict[str, Any]]) -> int:
    """Writes triples of any number of texts as JSON lines, UTF-8; the file appears whole or not at all.

    Args:
        path: of the file; one that exists is replaced.
        triples: as `triples` yields them.

    Returns:
        The number of lines.

    Raises:
        InputError: the file cannot be written.
    """
    count = 0
    path = Path(path)
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
        for triple in triples:
            file.write(json.dumps(triple, ensure_ascii=False) + "\n")
            count += 1
    if not count:  # `whole_file` does not replace a file by an empty one
        path.write_bytes(b"")
    return count


def _described(
    i: int, entity: EntitySpans, mentions: list[tuple[int, int]], text: str | None
) -> dict[str, Any]:
    first = entity if is_mention(entity) else entity[0]
    start, end = mentions[0]
    if isinstance(first, Span):
        characters = first.text
    elif text is None:
        raise bad(f"entities[{i}]", (start, end), "pairs of offsets require the argument text")
    elif not 0 <= start < end <= len(text):
        raise bad(f"entities[{i}]", (start, end), f"expected 0 <= start < end <= {len(text)}")
    else:
        characters = text[start:end]
    return {
        "id": i,
        "text": characters,
        "start": start,
        "end": end,
        "label": getattr(first, "label", None),
        "mentions": [list(mention) for mention in mentions],
    }
