"""Examples of evaluation files: a document and what is right about it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A question about a document.

    Attributes:
        text: the document.
        question: the question.
        answers: the right answers; empty if the document has none.
        start: the first character of the first of them; None if it has none, or if that is not known.
    """

    text: str
    question: str
    answers: tuple[str, ...]
    start: int | None


@dataclass(frozen=True)
class Tagged:
    """A document with its entities.

    Attributes:
        text: the document.
        entities: (start, end, label) of each, characters of the text.
    """

    text: str
    entities: frozenset[tuple[int, int, str]]


@dataclass(frozen=True)
class Classified:
    """A document with its class.

    Attributes:
        text: the document.
        labels: names that the class has in the file, such as "110" and what it means.
    """

    text: str
    labels: tuple[str, ...]


Example = Question | Tagged | Classified
