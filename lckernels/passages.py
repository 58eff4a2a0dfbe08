"""Late chunking: a text cut into passages of whole sentences, each the mean of its tokens' states."""

import re
from bisect import bisect_right
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lckernels.sentences import sentence_boundaries, token_boundaries

_PARAGRAPH_END = re.compile(r"\n[ \t\r]*\n\s*")
_HEADING_CHARACTERS = 60


@dataclass(frozen=True, eq=False)
class Passages:
    """The passages of a text, in order; every token is in exactly one.

    Attributes:
        tokens: (num_passages + 1,) int64; passage p has the tokens `[tokens[p], tokens[p + 1])`.
        chars: (num_passages, 2) int64; the first character of each passage and the one behind its last.
    """

    tokens: Tensor
    chars: Tensor

    def __len__(self) -> int:
        return len(self.chars)


def split_passages(text: str, offsets: Tensor, language: str, passage_tokens: int) -> Passages:
    """Packs sentences into passages.

    A passage ends with a paragraph if one ends in its second half, and not between a heading and its text. A
    sentence longer than a passage is cut.

    Args:
        text: the characters.
        offsets: (num_tokens, 2) int64, the characters of each token.
        language: ISO 639 code for finding sentences.
        passage_tokens: the most tokens of a passage.
    """
    paragraphs, headings = _paragraph_ends(text)
    sentences = sentence_boundaries(text, language)
    behind_headings = set(headings)
    tiers = [paragraphs, [end for end in sentences if end not in behind_headings], sentences]
    cuts = pack([token_boundaries(offsets, tier) for tier in tiers], len(offsets), passage_tokens)
    tokens = torch.tensor(cuts, device=offsets.device)
    chars = torch.stack([offsets[tokens[:-1], 0], offsets[tokens[1:] - 1, 1]], dim=1)
    return Passages(tokens, chars)


def pack(tiers: list[list[int]], num_tokens: int, passage_tokens: int) -> list[int]:
    """Greedy cuts from 0 to num_tokens, at most `passage_tokens` apart.

    Each cut is the furthest of the first kind that has one in the second half of the passage, else the
    furthest of the last kind, else the limit.

    Args:
        tiers: for each kind of cut, the best kind first, the allowed token positions, rising.
        num_tokens: tokens of the text.
        passage_tokens: the most tokens of a passage.
    """
    cuts = [0]
    while cuts[-1] + passage_tokens < num_tokens:
        start, limit = cuts[-1], cuts[-1] + passage_tokens
        reached = [tier[index - 1] if (index := bisect_right(tier, limit)) else 0 for tier in tiers]
        good = (cut for cut in reached if 2 * (cut - start) >= passage_tokens)
        cuts.append(next(good, reached[-1] if reached[-1] > start else limit))
    return [*cuts, num_tokens]


def _paragraph_ends(text: str) -> tuple[list[int], list[int]]:
    """Positions at which a paragraph begins: those after text, and those after a heading (one short line)."""
    ends, headings, start = [], [], 0
    for match in _PARAGRAPH_END.finditer(text):
        paragraph = text[start : match.start()].strip()
        is_heading = len(paragraph) <= _HEADING_CHARACTERS and "\n" not in paragraph
        (headings if is_heading else ends).append(match.end())
        start = match.end()
    return ends, headings


def passage_vectors(states: Tensor, passages: Passages) -> Tensor:
    """The normalized mean state of each passage.

    Args:
        states: (num_tokens, dim), any float dtype; summed in fp32.
        passages: of the same text.

    Returns:
        (num_passages, dim) float32, rows of length 1.
    """
    means = torch.segment_reduce(states.float(), "mean", lengths=passages.tokens.diff())
    return F.normalize(means, dim=-1)
