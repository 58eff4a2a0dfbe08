"""Columns of CoNLL: words with tags, as texts with the characters of their entities."""

import re
from collections.abc import Iterator

_DOCUMENT = "-DOCSTART-"
Spans = list[tuple[int, int, str]]


def conll_documents(content: str) -> Iterator[tuple[str, Spans]]:
    """The text and the entities (start, end, label) of each document.

    A line is a word, perhaps other columns, and its tag; a blank line ends a sentence. A document begins with
    -DOCSTART-, and its sentences are lines of the text; in a file without it each sentence is a document.
    Words have a space between them, but for neighbours that both are written in Chinese characters.

    Raises:
        ValueError: a line of one column, or a tag without a letter of a scheme.
    """
    documents: list[list[list[tuple[str, str]]]] = [[]]
    sentence: list[tuple[str, str]] = []
    marked = False
    for number, line in enumerate([*content.split("\n"), ""], 1):
        columns = columns_of(line)
        is_start = bool(columns) and columns[0] == _DOCUMENT
        if (is_start or not columns) and sentence:
            documents[-1].append(sentence)
            sentence = []
        if is_start:
            marked = True
            documents.append([])
        elif columns:
            if len(columns) < 2:
                raise ValueError(f"line {number} has one column; expected a word and its tag")
            sentence.append((columns[0], columns[-1]))
    if not marked:
        documents = [[sentence] for document in documents for sentence in document]
    yield from map(_document, filter(None, documents))


def columns_of(line: str) -> list[str]:
    """The columns of a line. A word may be, or hold, white space that is no blank and no tab."""
    return re.split("[ \t]+", line.strip(" \t\r")) if line.strip() else []


def _document(sentences: list[list[tuple[str, str]]]) -> tuple[str, Spans]:
    text, entities = "", []
    for number, sentence in enumerate(sentences):
        text += "\n" if number else ""
        places = []
        for word, _ in sentence:
            joined = not places or (_is_chinese(text[-1]) and _is_chinese(word[0]))
            text += "" if joined else " "
            places.append((len(text), len(text) + len(word)))
            text += word
        entities += _entities(places, [tag for _, tag in sentence])
    return text, entities


def _entities(places: list[tuple[int, int]], tags: list[str]) -> Spans:
    """The entities of a sentence, by the rules of the CoNLL-2003 evaluation."""
    found: Spans = []
    inside = False
    previous = ""
    for (start, end), tag in zip(places, tags, strict=True):
        letter, _, label = tag.partition("-")
        if letter.upper() not in tuple("OBIESLUM") or (letter.upper() != "O" and not label):
            raise ValueError(f"the tag {tag!r} is none of BIO, BIOES or BILOU")
        letter = letter.upper()
        if letter == "O":
            inside = False
        elif inside and label == previous and letter not in "BSU":
            found[-1] = (found[-1][0], end, label)
        else:
            found.append((start, end, label))
            inside = True
        inside = inside and letter not in "OSUEL"
        previous = label
    return found


def _is_chinese(character: str) -> bool:
    return "\u3000" <= character <= "\u9fff" or "\uff00" <= character <= "\uffef"
