"""The standard scores of tasks: exact match and F1 of answers, F1 of entities, accuracy of classes."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


def squad_scores(predicted: str, answers: Sequence[str]) -> dict[str, float]:
    """Exact match and F1 of one question, as SQuAD defines them: of the right answer that fits best.

    Args:
        predicted: an answer; "" for no answer.
        answers: the right ones; none if there is no answer.
    """
    golds = [_words(answer) for answer in answers or ("",)]
    found = _words(predicted)
    return {
        "exact match": float(any(found == gold for gold in golds)),
        "F1": max(_f1_of_words(found, gold) for gold in golds),
    }


def _words(answer: str) -> list[str]:
    """Lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split()


def _f1_of_words(found: list[str], gold: list[str]) -> float:
    if not found or not gold:
        return float(found == gold)
    same = sum((Counter(found) & Counter(gold)).values())
    return 2 * same / (len(found) + len(gold))


def cmrc_scores(predicted: str, answers: Sequence[str]) -> dict[str, float]:
    """Exact match and F1 of one question, as CMRC 2018 defines them.

    A unit is a Chinese character, or a word of others; punctuation is left out. F1 is that of the longest
    common run of units. Words of others are separated by white space; the program of CMRC uses nltk there.
    """
    found, golds = _units(predicted), [_units(answer) for answer in answers or ("",)]
    return {
        "exact match": float(any(found == gold for gold in golds)),
        "F1": max(_f1_of_runs(found, gold) for gold in golds),
    }


def _units(answer: str) -> list[str]:
    kept = "".join(
        character
        for character in answer.lower()
        if not unicodedata.category(character).startswith(("P", "S"))
    )
    return _CHINESE.sub(lambda match: f" {match[0]} ", kept).split()


def _f1_of_runs(found: list[str], gold: list[str]) -> float:
    if not found or not gold:
        return float(found == gold)
    longest, lengths = 0, [0] * (len(gold) + 1)
    for unit in found:
        lengths = [0, *(lengths[j] + 1 if unit == other else 0 for j, other in enumerate(gold))]
        longest = max(longest, *lengths)
    return 2 * longest / (len(found) + len(gold))


def entity_scores(found: Iterable[object], gold: Iterable[object]) -> dict[str, float]:
    """Precision, recall and F1 of entities whose characters and label are both right.

    Without a right entity, and without a found one, all are 1.
    """
    found, gold = set(found), set(gold)
    right = len(found & gold)
    if not found and not gold:
        return {"precision": 1.0, "recall": 1.0, "F1": 1.0}
    return {
        "precision": right / len(found) if found else 0.0,
        "recall": right / len(gold) if gold else 0.0,
        "F1": 2 * right / (len(found) + len(gold)),
    }


def class_scores(found: Sequence[str], gold: Sequence[str]) -> dict[str, float]:
    """Accuracy, and the mean of the classes' F1 over those that occur in the file."""
    accuracy = sum(one == other for one, other in zip(found, gold, strict=True)) / len(gold)
    counts = Counter(gold), Counter(found)
    right = Counter(one for one, other in zip(found, gold, strict=True) if one == other)
    per_class = [2 * right[name] / (counts[0][name] + counts[1][name]) for name in counts[0]]
    return {"accuracy": accuracy, "macro F1": sum(per_class) / len(per_class)}
