"""Documents of words that a seed generates, with what is right about them, and a tokenizer of words."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

PAD, UNK, CLS, SEP = range(4)
FILLERS, VALUES, NAMES = 40, 20, 4  # words that mean nothing, words of answers and entities, names
OPEN, CLOSE, MARK = "open", "close", "mark"
TITLES = ("person", "place", "firm")  # the word before an entity, which alone has its type
SPAN_WORDS = (2, 12)  # fewest and most words of an answer or an entity
WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", OPEN, CLOSE, MARK, *TITLES),
    *(f"f{i}" for i in range(FILLERS)), *(f"v{i}" for i in range(VALUES)), *(f"n{i}" for i in range(NAMES)),
    *(f"q{i}" for i in range(NAMES)),
]  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A piece of evidence: words [start, end) of a document, and a label."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Document:
    """A document.

    Attributes:
        words: of the text, which has a space between them.
        parts: the evidence, in its order.
        question: q3 is for the name n3; empty for `tags`.
    """

    words: list[str]
    parts: list[Part]
    question: str = ""

    @property
    def text(self) -> str:
        return " ".join(self.words)


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A token is a word; [CLS] and [SEP] are around a text, and [SEP] is between two."""
    fast = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    inputs = ["input_ids", "attention_mask"]
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, model_max_length=64, model_input_names=inputs, **names
    )


def _fillers(rng: np.random.Generator, count: int) -> list[str]:
    return [f"f{i}" for i in rng.integers(0, FILLERS, count)]


def _values(rng: np.random.Generator) -> list[str]:
    count = rng.integers(SPAN_WORDS[0], SPAN_WORDS[1] + 1)
    return [f"v{i}" for i in rng.integers(0, VALUES, count)]


def _with_gaps(rng: np.random.Generator, pieces: list[list[str]], length: int) -> tuple[list[str], list[int]]:
    """The pieces with fillers between them, `length` words in all, and where each begins."""
    room = length - sum(map(len, pieces))
    cuts = np.sort(rng.integers(0, room + 1, len(pieces)))
    gaps = np.diff(np.concatenate([[0], cuts, [room]]))
    words, begins = [], []
    for gap, piece in zip(gaps, [*pieces, []], strict=True):
        words += _fillers(rng, int(gap))
        begins.append(len(words))
        words += piece
    return words, begins[:-1]


def answers(rng: np.random.Generator, length: int) -> Document:
    """Names, each followed by `open`, its values and `close`; the question is for one of them."""
    count = max(2, min(NAMES, length // 40))
    names = rng.permutation(NAMES)[:count]
    values = [_values(rng) for _ in names]
    pieces = [[f"n{name}", OPEN, *of, CLOSE] for name, of in zip(names, values, strict=True)]
    words, begins = _with_gaps(rng, pieces, length)
    asked = int(rng.integers(count))
    start = begins[asked] + 2
    return Document(words, [Part(start, start + len(values[asked]), "answer")], f"q{names[asked]}")


def tags(rng: np.random.Generator, length: int) -> Document:
    """Entities of values, each behind a title, which alone has its type."""
    count = max(1, length // 50)
    labels = rng.integers(0, len(TITLES), count)
    pieces = [[TITLES[label], *_values(rng), MARK] for label in labels]
    words, begins = _with_gaps(rng, pieces, length)
    parts = [
        Part(begin + 1, begin + len(piece) - 1, TITLES[label])
        for begin, piece, label in zip(begins, pieces, labels, strict=True)
    ]
    return Document(words, parts)


Generate = Callable[[np.random.Generator, int], Document]
