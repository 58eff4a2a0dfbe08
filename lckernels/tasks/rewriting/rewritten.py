"""The results of `rewrite`, and what makes an output suspicious."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from lckernels.sentences import sentence_boundaries

_SHORT = 0.4  # of the tokens of the source
_SHORT_OF_MEDIAN = 0.5  # of the usual ratio of the call
_SLACK = 3  # tokens
_RATED = 8  # tokens of a source that counts for the usual ratio


@dataclass(frozen=True)
class Part:
    """A part of a text, and the text that replaces it.

    Attributes:
        start: its first character in the text that was given.
        end: the offset behind its last character.
        source: these characters.
        text: what the model wrote.
        problem: why this may be incomplete; empty if nothing was found.
        is_cut: whether it is a part of a sentence that is longer than the model's limit.
    """

    start: int
    end: int
    source: str
    text: str
    problem: str = ""
    is_cut: bool = False


@dataclass(frozen=True)
class Rewritten:
    """A text that a model wrote.

    Attributes:
        text: all of it; of a translation with the layout of the given text.
        parts: of the given text, in order; for a summary one.
        coverage: the share of the given text's characters, white space left out, that were read. Below 1.0
            only with `limit`, or if the tokenizer dropped characters.
        num_tokens: tokens of the given text that were read, special tokens left out.
    """

    text: str
    parts: list[Part]
    coverage: float
    num_tokens: int

    @property
    def missing(self) -> list[Part]:
        """The parts that may be incomplete: each has a `problem`."""
        return [part for part in self.parts if part.problem]

    @property
    def cut(self) -> list[Part]:
        """The parts of sentences that are longer than the model's limit."""
        return [part for part in self.parts if part.is_cut]


@dataclass(frozen=True)
class Output:
    """What a model wrote for one row.

    Attributes:
        text: without special tokens, and white space at its ends.
        num_tokens: tokens without special tokens.
        is_cut_off: whether it ends without a token of the end.
    """

    text: str
    num_tokens: int
    is_cut_off: bool


def least_ratio(lengths: Sequence[tuple[int, int]]) -> float:
    """The least ratio of output tokens to source tokens that is not suspicious.

    Args:
        lengths: (source tokens, output tokens) of each group of a call.
    """
    ratios = [output / source for source, output in lengths if source >= _RATED]
    return max(_SHORT, _SHORT_OF_MEDIAN * median(ratios)) if ratios else _SHORT


def problem(
    output: Output, num_tokens: int = 0, num_sentences: int = 1, ratio: float = 0.0, language: str = "en"
) -> str:
    """Why an output may be incomplete; empty if nothing is found.

    Args:
        output: of the model.
        num_tokens: of its source; 0: its length is not compared.
        num_sentences: of its source.
        ratio: as `least_ratio` returns it.
        language: ISO 639 code for finding sentences of the output.
    """
    if not output.text:
        return "no output"
    if output.is_cut_off:
        return f"stopped after {output.num_tokens} tokens, before an end"
    if num_sentences > 1:
        found = len(sentence_boundaries(output.text, language)) + 1
        if found < num_sentences:
            return f"sentences: {found} for {num_sentences}"
    if output.num_tokens + _SLACK < ratio * num_tokens:
        return f"tokens: {output.num_tokens} for {num_tokens}"
    return ""
