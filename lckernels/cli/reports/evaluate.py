"""The scores of a model on a file, as tables and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lckernels.cli.console import stdout
from lckernels.cli.reports.rich_tables import print_table

if TYPE_CHECKING:
    from lckernels.tasks.evaluation import Bucket, Evaluation

_EVIDENCE = {"answer": "the right answer", "tag": "an entity"}


def print_evaluation(found: "Evaluation") -> None:
    """Prints the scores over all examples, by length, and by distance; percent."""
    stdout.print(f"{found.format}: {found.num_examples:,} examples, task {found.task}")
    if found.coverage < 1:
        stdout.print(f"the least part of a document that was read: {100 * found.coverage:.1f} %")
    print_table(tuple(found.scores), [_percents(found.scores)], wide=None)
    _print_buckets("tokens of the document", "documents", found.by_length)
    if found.by_distance:
        before = f"tokens before {_EVIDENCE[found.task]}"
        _print_buckets(before, {"answer": "questions", "tag": "entities"}[found.task], found.by_distance)


def _print_buckets(title: str, what: str, buckets: "Sequence[Bucket]") -> None:
    names = tuple(buckets[0].scores)
    rows = [(_range(bucket), f"{bucket.count:,}", *(_percents(bucket.scores))) for bucket in buckets]
    stdout.print()
    print_table((title, what, *names), rows, wide=None)


def _percents(scores: dict[str, float]) -> tuple[str, ...]:
    return tuple(f"{100 * value:.1f}" for value in scores.values())


def _range(bucket: "Bucket") -> str:
    return f"{bucket.low:,} and more" if bucket.high is None else f"{bucket.low:,} to {bucket.high - 1:,}"


def as_json(found: "Evaluation") -> dict[str, Any]:
    """The scores of the object that `evaluate --json` prints, 0 to 1."""
    return asdict(found)
