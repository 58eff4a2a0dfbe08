"""Named entities of documents: logits of a whole text, and one search for the best labels of its words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad
from lckernels.tasks.documents import Document, given_texts
from lckernels.tasks.model_lock import one_at_a_time
from lckernels.tasks.reader import TOKEN_CLASSIFICATION, DocumentReader
from lckernels.tasks.results import Curve, Span, curve
from lckernels.tasks.tagging.schemes import Scheme, check_scheme, read_scheme
from lckernels.tasks.tagging.viterbi import viterbi
from lckernels.tasks.tagging.words import Words, find_words

_WORDS = ("first", "mean", "none")
_CURVE = "probability of an entity"


@dataclass(frozen=True)
class Entity(Span):
    """A part of a text with a label.

    Attributes:
        label: the type, such as "PER".
        score: the mean, over the entity's words, of the probability of the word's label.
    """

    label: str


@dataclass(frozen=True)
class Tags:
    """The entities of one text.

    Attributes:
        entities: in the order of the text; they do not overlap.
        scheme: of the labels: "BIO", "IOB1", "BIOES" or "IO".
        coverage: the share of the text's characters, white space left out, that are in a token that was read;
            below 1 with `limit`, or where the tokenizer has dropped characters.
        num_tokens: tokens that were read.
        curve: the probability that a word is part of an entity.
    """

    entities: list[Entity]
    scheme: str
    coverage: float
    num_tokens: int
    curve: Curve


@one_at_a_time
def tag(
    model: nn.Module,
    tokenizer: Any,
    text: str | Sequence[str],
    scheme: str = "auto",
    *,
    words: str = "first",
    chunk_len: int | None = None,
    overlap: int | None = None,
    batch: int = 8,
    progress: bool = False,
    limit: int | None = None,
) -> Tags | list[Tags]:
    """The named entities of texts of any length.

    The model reads a long text in overlapping chunks whose states are merged, and its head runs once. Then
    the labels of the whole text are those whose sum of log-probabilities is largest among the sequences that
    the scheme allows (Viterbi). So an entity across the edge of a chunk is one entity, and no two overlap.

    Args:
        model: for token classification, as AutoModelForTokenClassification loads it, in eval mode; after
            `lckernels.lengthen` or not.
        tokenizer: of the model, a fast one.
        text: one text, or several.
        scheme: what the labels mean. "auto" (default) reads BIO, BIOES (BILOU, BMES) or IO off
            `model.config.id2label`. "IOB1": labels of BIO with which the model was trained such that I-PER
            begins an entity too. "IO": every label but O is a type.
        words: the tokens of a word have one label. "first" (default): that of its first token, as models are
            trained by default. "mean": of the mean of its tokens' probabilities. "none": each token
            has a label of its own.
        chunk_len: tokens of a chunk, special tokens included. Default: all positions of the model.
        overlap: tokens that neighbouring chunks share. Default: a quarter of a chunk.
        batch: the most documents of a call of the model.
        progress: show a progress bar.
        limit: the most tokens of a text that are read. Default: all.

    Returns:
        A Tags; for several texts a list of them.

    Raises:
        TypeError: a model without the head, a tokenizer without offsets, a text that is no str.
        ValueError: labels of no scheme, a blank text, an option out of range, logits that are NaN.
    """
    texts, single = given_texts("text", text)
    check_scheme(scheme)
    if words not in _WORDS:
        raise bad("words", repr(words), f"allowed are {', '.join(map(repr, _WORDS))}")
    reader = DocumentReader(
        model,
        tokenizer,
        TOKEN_CLASSIFICATION,
        chunk_len=chunk_len,
        overlap=overlap,
        batch=batch,
        progress=progress,
        limit=limit,
    )
    labels = read_scheme(model.config.id2label, scheme)
    results: dict[int, Tags] = {}
    for document, output, row in reader.read(reader.documents(texts, single=single)):
        logits = output.logits[row, document.columns].float().cpu()
        _check_logits(logits, document.place)
        results[document.index] = tags_of(document, logits, labels, words)
    found = [results[i] for i in range(len(texts))]
    return found[0] if single else found


def _check_logits(logits: Tensor, place: str) -> None:
    wrong = (~(logits < torch.inf)).any(1)
    if wrong.any():
        token = int(wrong.int().argmax())
        raise bad("model", f"logits with NaN or inf at token {token} of {place}", "expected numbers")
    forbidden = (logits == -torch.inf).all(1)
    if forbidden.any():
        token = int(forbidden.int().argmax())
        raise bad("model", f"logits of -inf alone at token {token} of {place}", "expected one finite")


def tags_of(document: Document, logits: Tensor, scheme: Scheme, words: str) -> Tags:
    """The entities of a document whose logits are known.

    Args:
        document: its text and the characters of its tokens.
        logits: (num_tokens, num_labels) float32 on the CPU, without NaN.
        scheme: of the labels.
        words: as in `tag`.
    """
    found = find_words(document.text, document.offsets, words != "none")
    if not len(found):  # a limit that leaves white space alone
        empty = curve(_CURVE, document.offsets, logits.new_zeros(len(logits)))
        return Tags([], scheme.name, document.coverage, len(document.offsets), empty)
    scores = _word_scores(logits, found, words)
    labels = viterbi(scores, scheme.transitions, scheme.begin, scheme.end)
    probabilities = scores.softmax(1)
    of_label = probabilities.gather(1, labels[:, None]).flatten()
    inside = probabilities @ (scheme.type_of >= 0).float()
    return Tags(
        entities=_entities(document.text, found.chars, labels, of_label, scheme),
        scheme=scheme.name,
        coverage=document.coverage,
        num_tokens=len(document.offsets),
        curve=curve(_CURVE, found.chars, inside),
    )


def _word_scores(logits: Tensor, found: Words, words: str) -> Tensor:
    """(num_words, num_labels): logits of each word."""
    if words != "mean":
        return logits[found.tokens[found.first]]
    lengths = torch.diff(found.first, append=found.first.new_tensor([len(found.tokens)]))
    of_tokens = logits[found.tokens].log_softmax(1)
    largest = torch.segment_reduce(of_tokens, "max", lengths=lengths)
    largest = largest.masked_fill(largest == -torch.inf, 0)  # all tokens of the word forbid the label
    ratios = (of_tokens - largest.repeat_interleave(lengths, 0)).exp()  # the largest is 1: no underflow
    return torch.segment_reduce(ratios, "mean", lengths=lengths).log() + largest


def _entities(text: str, chars: Tensor, labels: Tensor, scores: Tensor, scheme: Scheme) -> list[Entity]:
    """Entities from the label of each word.

    Args:
        text: the characters.
        chars: (num_words, 2) int64, the characters of each word.
        labels: (num_words,) int64.
        scores: (num_words,) float32, the probability of each word's label.
        scheme: of the labels.
    """
    types, begins, ends = scheme.type_of[labels], scheme.begins[labels], scheme.ends[labels]
    inside = types >= 0
    continues = torch.zeros_like(inside)
    continues[1:] = inside[1:] & (types[1:] == types[:-1]) & ~begins[1:] & ~ends[:-1]
    first = (inside & ~continues).nonzero().flatten()
    continued = torch.cat([continues[1:], continues.new_zeros(1)])
    last = (inside & ~continued).nonzero().flatten()
    sums = torch.cat([scores.new_zeros(1, dtype=torch.float64), scores.double().cumsum(0)])
    means = (sums[last + 1] - sums[first]) / (last + 1 - first)
    columns = (chars[first, 0], chars[last, 1], means.clamp(0, 1), types[first])
    return [
        Entity(start, end, text[start:end], score, scheme.types[of_type])
        for start, end, score, of_type in zip(*(column.tolist() for column in columns), strict=True)
    ]
