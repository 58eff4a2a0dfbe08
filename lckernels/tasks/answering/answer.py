"""Extractive question answering: the answers to a question in a text of any length."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lckernels.checks import bad, boolean, integer
from lckernels.long.tokens import count_special_tokens
from lckernels.tasks.answering.null_score import NullScores
from lckernels.tasks.answering.span_search import best_by_start, best_spans, log_sum_of_spans
from lckernels.tasks.documents import Document, given_texts
from lckernels.tasks.model_lock import one_at_a_time
from lckernels.tasks.reader import QUESTION_ANSWERING, DocumentReader
from lckernels.tasks.results import Curve, Span, curve
from lckernels.tasks.spans import is_visible

_CHUNKS = (384, 128)  # tokens of a chunk and of its overlap, as models for SQuAD are trained


@dataclass(frozen=True)
class Answer(Span):
    """A part of the text as an answer; `score` is its probability, as `answer` defines it."""


@dataclass(frozen=True)
class Answers:
    """What a model answers to one question about one text.

    Attributes:
        answers: the best spans that share no character, best first; empty if no token can be an answer.
        no_answer: the probability that the text has no answer; None without it.
        coverage: the share of the text's characters, white space left out, that were read.
        num_tokens: tokens of the text that were read.
        curve: along the text, the score of the best answer that begins there.
    """

    answers: list[Answer]
    no_answer: float | None
    coverage: float
    num_tokens: int
    curve: Curve

    @property
    def best(self) -> Answer | None:
        """The first answer; None if there is none, or if `no_answer` is greater than its score."""
        if not self.answers or (self.no_answer or 0.0) > self.answers[0].score:
            return None
        return self.answers[0]


@one_at_a_time
def answer(
    model: nn.Module,
    tokenizer: Any,
    question: str | Sequence[str],
    text: str | Sequence[str],
    top_k: int = 5,
    no_answer: bool = True,
    *,
    max_answer_tokens: int = 30,
    chunk_len: int | None = None,
    overlap: int | None = None,
    batch: int = 8,
    progress: bool = False,
    limit: int | None = None,
) -> Answers | list[Answers]:
    """The answers to a question in a text of any length, searched over the whole text at once.

    Every chunk of a long text reads the question before its own tokens. The chunks' states are merged into
    one sequence, the head runs once, and the best spans are searched over all its start and end scores. A
    text of one chunk has the head's own scores. No gradients are recorded.

    The score of an answer is a probability: exp(start + end), divided by the sum of this over all spans of at
    most max_answer_tokens tokens of the text, and over "no answer". That of "no answer" is start + end at the
    first token of a row, such as [CLS]: in a text of several chunks the smallest of the chunks' own, as
    evaluation on SQuAD 2.0 has it for models that read chunks (`score_null` in BERT's run_squad.py). No chunk
    is read twice for it. It is that of the merged state of this token (`summary` of `lengthen`) for a model
    that is lengthened with summary="first" or a fixed prefix, for a head whose scores of the first token
    depend on states of other tokens, for an encoder-decoder, and for a model that calls its encoder several
    times. It is meaningless for a model that was not trained on questions without an answer.

    Args:
        model: of transformers, with a head for question answering, in eval mode; it may be lengthened, or in
            PEFT.
        tokenizer: of the model, a fast one.
        question: one question, or one for each text.
        text: one text, or several. Several questions about one text are allowed too.
        top_k: the most answers. Default: 5.
        no_answer: whether "no answer" is a result, which also lowers the scores of others. Default: True.
        max_answer_tokens: the most tokens of an answer. Default: 30.
        chunk_len: tokens of a chunk, special tokens and question included. Default: 384, at most the
            model's positions.
        overlap: tokens that neighbouring chunks share. Default: 128; with another chunk_len, or a model of
            fewer positions, a quarter of a chunk's content.
        batch: the most texts of a call of the model.
        progress: show a progress bar: over the tokens of one text, over several texts.
        limit: the most tokens of a text that are read. Default: all.

    Returns:
        An Answers; a list of them for several questions or texts, each with scores of its own sum.

    Raises:
        TypeError: a model without an encoder, or without such a head; a tokenizer without offsets.
        ValueError: a blank question or text, numbers of questions and texts that differ, a question that does
            not fit in a chunk, an option out of range, scores that are NaN.
    """
    questions, one_question = given_texts("question", question)
    texts, one_text = given_texts("text", text)
    questions, texts = _pairs(questions, one_question, texts, one_text)
    top_k = integer("top_k", top_k, 1)
    max_answer_tokens = integer("max_answer_tokens", max_answer_tokens, 1)
    boolean("no_answer", no_answer)
    reader = DocumentReader(
        model,
        tokenizer,
        QUESTION_ANSWERING,
        chunk_len=chunk_len,
        overlap=overlap,
        batch=batch,
        progress=progress,
        limit=limit,
        defaults=_CHUNKS,
    )
    if no_answer and not count_special_tokens(tokenizer, reader.name)[0]:
        got = f"True for {reader.name}, whose rows begin without a special token"
        raise bad("no_answer", got, "expected False")
    documents = reader.documents(texts, questions, single=one_text)
    reader.check_room(
        documents, ["question" if one_question else f"question[{i}]" for i in range(len(texts))]
    )
    found: dict[int, Answers] = {}
    nulls = NullScores(reader)
    for document, output, row, summaries in reader.read_chunks(documents, reader.num_virtual + 1):
        scores = torch.stack([x[row, reader.num_virtual :] for x in (output.start_logits, output.end_logits)])
        scores = scores.double().cpu()
        null = None
        if no_answer:
            null = nulls.score(document, row, float(scores[:, 0].sum()), summaries)
        found[document.index] = decode(document, scores[:, document.columns], null, max_answer_tokens, top_k)
    results = [found[i] for i in range(len(texts))]
    return results[0] if one_question and one_text else results


def _pairs(
    questions: list[str], one_question: bool, texts: list[str], one_text: bool
) -> tuple[list[str], list[str]]:
    """As many questions as texts."""
    if one_question:
        return questions * len(texts), texts
    if one_text:
        return questions, texts * len(questions)
    if len(questions) != len(texts):
        raise bad(
            "question", f"{len(questions)} questions", f"expected one, or one for each of {len(texts)} texts"
        )
    return questions, texts


def decode(document: Document, scores: Tensor, null: float | None, max_tokens: int, top_k: int) -> Answers:
    """The best answers from the scores (2, num_tokens) of starts and ends, and the score of no answer."""
    _check_scores(document, scores, null)
    offsets = document.offsets
    starts, ends = scores.masked_fill(~is_visible(document.text, offsets), -torch.inf)
    total = log_sum_of_spans(starts, ends, max_tokens)
    if null is not None:
        total = float(starts.new_tensor([total, null]).logsumexp(0))
    spans = best_spans(starts, ends, max_tokens, top_k, _characters(offsets))
    along = (best_by_start(starts, ends, max_tokens) - total).exp() if spans else torch.zeros_like(starts)
    answers = []
    for span in spans:
        part = offsets[span.first : span.last + 1]
        start, end = int(part[:, 0].min()), int(part[:, 1].max())
        raw = document.text[start:end]
        start, end = end - len(raw.lstrip()), start + len(raw.rstrip())
        answers.append(Answer(start, end, document.text[start:end], math.exp(span.score - total)))
    return Answers(
        answers=answers,
        no_answer=None if null is None else math.exp(null - total),
        coverage=document.coverage,
        num_tokens=len(offsets),
        curve=curve("score of the best answer that begins here", offsets, along),
    )


def _characters(offsets: Tensor) -> Tensor:
    """(num_tokens,) int64: which tokens share characters, such as the bytes of one."""
    ends = offsets[:, 1].cummax(0).values
    return F.pad(offsets[1:, 0] >= ends[:-1], (1, 0)).cumsum(0)


def _check_scores(document: Document, scores: Tensor, null: float | None) -> None:
    for name, values in (
        ("start", scores[0]),
        ("end", scores[1]),
        ("no answer", scores.new_tensor([null or 0.0])),
    ):
        wrong = values.isnan() | (values == torch.inf)
        if wrong.any():
            at = int(wrong.nonzero()[0])
            where = name if name == "no answer" else f"{name} at token {at}"
            got = f"the score {float(values[at])} of {where} of {document.place}"
            raise bad("model", got, "expected finite scores")
