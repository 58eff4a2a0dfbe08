"""Reads evaluation files: SQuAD and CMRC 2018 JSON, CoNLL columns, CLUENER and IFLYTEK JSON lines."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lckernels.checks import bad
from lckernels.errors import InputError
from lckernels.tasks.documents import check_surrogates
from lckernels.tasks.evaluation.conll import columns_of, conll_documents
from lckernels.tasks.evaluation.examples import Classified, Example, Question, Tagged
from lckernels.text_files import language_of, read_text

_TAG = re.compile(r"O|[A-Z]-\S+")
_TEXTS = ("sentence", "text", "content")  # names of the text in JSON lines of classes


def read_examples(path: Path, format: str = "auto") -> tuple[str, list[Example]]:
    """The format of a file, and its examples.

    Args:
        path: a file in UTF-8.
        format: one of FORMATS, or "auto" to find it in the file.

    Raises:
        InputError: the file is missing, is not text, is of none of the formats, or has no example.
        ValueError: an unknown format.
    """
    if format != "auto" and format not in FORMATS:
        raise bad("format", repr(format), f"allowed are 'auto', {', '.join(map(repr, FORMATS))}")
    content = read_text(path).content
    found = _format_of(content) if format == "auto" else format
    if found is None:
        raise InputError(f"{path} has none of the formats {', '.join(FORMATS)}")
    try:
        examples = list(FORMATS[found](content))
        for number, example in enumerate(examples, 1):
            _check(f"example {number}", example)
    except RecursionError:
        raise InputError(f"{path} cannot be read as {found}: its values are nested too deeply") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path} cannot be read as {found}: {what}") from None
    examples = [example for example in examples if example.text.strip()]
    if not examples:
        raise InputError(f"{path} has no example of the format {found}")
    is_cmrc = format == "auto" and found == "squad" and language_of(examples[0].text) == "zh"
    return "cmrc" if is_cmrc else found, examples


def _check(name: str, example: Example) -> None:
    """Raises ValueError for values of wrong types, which JSON can hold."""
    texts = {"text": example.text}
    if isinstance(example, Question):
        texts |= {"question": example.question}
        texts |= {f"answer {i}": answer for i, answer in enumerate(example.answers, 1)}
        if isinstance(example.question, str) and not example.question.strip():
            raise ValueError(f"the question of {name} is blank")
    for what, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(f"the {what} of {name} is of type {type(value).__name__}; expected a str")
        check_surrogates(f"the {what} of {name}", value)


def _format_of(content: str) -> str | None:
    """The format of a file, from its first object or line; None if there is none."""
    start = content.lstrip()[:1]
    if start not in ("{", "["):
        rows = (columns_of(line) for line in content.split("\n") if line.strip())
        first = next((row for row in rows if row[0] != "-DOCSTART-"), [""])
        return "conll" if len(first) > 1 and _TAG.fullmatch(first[-1]) else None
    try:
        first = json.loads(content.lstrip().split("\n")[0])
    except (ValueError, RecursionError):
        first = None
    if not isinstance(first, dict) or "data" in first or "paragraphs" in first:
        return _whole_format(content)
    if isinstance(first.get("label"), dict):
        return "cluener"
    if "label" in first and any(name in first for name in _TEXTS):
        return "iflytek"
    return _whole_format(content)


def _whole_format(content: str) -> str | None:
    """The format of a file that is one JSON value."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        return "squad"
    first = value[0] if isinstance(value, list) and value else None
    return "cmrc" if isinstance(first, dict) and "context_text" in first else None


def _squad(content: str) -> Iterator[Question]:
    """SQuAD 1.1 and 2.0, and CMRC 2018 in the same structure."""
    for document in json.loads(content)["data"]:
        for paragraph in document["paragraphs"]:
            for asked in paragraph["qas"]:
                given = [] if asked.get("is_impossible") else asked.get("answers", [])
                given = [answer for answer in given if answer["text"]]
                answers = tuple(answer["text"] for answer in given)
                start = given[0].get("answer_start") if answers else None
                yield Question(paragraph["context"], asked["question"], answers, _checked_start(start))


def _cmrc(content: str) -> Iterator[Question]:
    """CMRC 2018; without offsets the first occurrence of an answer is taken."""
    documents = json.loads(content)
    if isinstance(documents, dict):
        yield from _squad(content)
        return
    for document in documents:
        text = document["context_text"]
        for asked in document["qas"]:
            if not isinstance(asked["answers"], list):
                raise ValueError(f"answers are of type {type(asked['answers']).__name__}; expected a list")
            answers = tuple(answer for answer in asked["answers"] if answer)
            start = text.find(answers[0]) if answers else -1
            yield Question(text, asked["query_text"], answers, start if start >= 0 else None)


def _checked_start(start: Any) -> int | None:
    return start if isinstance(start, int) and start >= 0 else None


def _cluener(content: str) -> Iterator[Tagged]:
    """CLUENER 2020; its ends are the last character of an entity."""
    for row in _rows(content):
        labels = row.get("label", {})
        places = ((name, places) for name, found in labels.items() for places in found.values())
        spans = ((start, last + 1, name) for name, found in places for start, last in found)
        entities = frozenset(spans)
        for start, end, name in entities:
            if type(start) is not int or type(end) is not int:
                raise ValueError(f"the {name} at {(start, end - 1)} has places that are no integers")
            if not 0 <= start < end <= len(row["text"]):
                raise ValueError(f"the {name} at {(start, end - 1)} is outside its text")
        yield Tagged(row["text"], entities)


def _iflytek(content: str) -> Iterator[Classified]:
    """IFLYTEK, TNEWS and others: one text and its label, perhaps with what the label means."""
    for number, row in enumerate(_rows(content), 1):
        text = next((row[name] for name in _TEXTS if name in row), None)
        if text is None:
            raise ValueError(f"example {number} has none of {', '.join(_TEXTS)}")
        names = tuple(str(row[name]) for name in ("label_des", "label_desc", "label") if name in row)
        if not names:
            raise ValueError(f"example {number} has no label")
        yield Classified(text, names)


def _rows(content: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no JSON object")
        yield row


def _conll(content: str) -> Iterator[Tagged]:
    for text, entities in conll_documents(content):
        yield Tagged(text, frozenset(entities))


FORMATS: dict[str, Callable[[str], Iterator[Example]]] = {
    "squad": _squad,
    "cmrc": _cmrc,
    "conll": _conll,
    "cluener": _cluener,
    "iflytek": _iflytek,
}
