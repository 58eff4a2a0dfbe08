"""Spans of a text in characters: their checks, their tokens, the mean state of each, and coverage."""

import reprlib

import torch
import torch.nn.functional as F
from torch import Tensor

from lckernels.checks import bad, integers
from lckernels.dtypes import compute_dtype

_WHITE_SPACE = [code for code in range(0x3001) if chr(code).isspace()]  # of all of Unicode


def checked_spans(name: str, spans: object, text: str | None) -> Tensor | None:
    """The spans of a text, (num_spans, 2) int64; None for None.

    Args:
        name: of the argument, for messages.
        spans: pairs (start, end) of character offsets, in any order; a list, an array or a tensor.
        text: the characters; None: the end of a span has no bound.

    Raises:
        ValueError: no such pairs, an empty span, or one outside the text.
    """
    if spans is None:
        return None
    expected = "expected pairs (start, end) of character offsets"
    pairs = integers(name, spans, 2, expected=expected)
    if not len(pairs):
        return pairs.new_zeros(0, 2)
    if pairs.shape[1] != 2:
        raise bad(name, f"shape {tuple(pairs.shape)}", expected)
    starts, ends = pairs.unbind(1)
    outside = torch.zeros_like(starts, dtype=torch.bool) if text is None else ends > len(text)
    for i in ((starts < 0) | (starts >= ends) | outside).nonzero().flatten().tolist()[:1]:
        bound = "" if text is None else f" <= {len(text)}"
        allowed = f"expected 0 <= start < end{bound}, the characters of the text"
        raise bad(f"{name}[{i}]", tuple(pairs[i].tolist()), allowed)
    return pairs


def span_tokens(name: str, spans: Tensor, text: str | None, offsets: Tensor) -> Tensor:
    """The tokens of each span: those that share a character with it, white space at its ends left out.

    Args:
        name: of the argument, for messages.
        spans: (num_spans, 2) int64, as `checked_spans` returns them.
        text: the characters; None: white space at the ends of a span counts.
        offsets: (num_tokens, 2) int64, the characters of each token.

    Returns:
        (num_spans, 2) int64; span s has the tokens `[tokens[s, 0], tokens[s, 1])`.

    Raises:
        ValueError: a span has no token.
    """
    inner = spans
    if text is not None:
        stripped = [_stripped(text, start, end) for start, end in spans.tolist()]
        inner = torch.tensor(stripped, dtype=torch.int64, device="cpu").reshape(-1, 2)
    # Offsets rise; where a tokenizer's do not, the range holds all tokens of the span.
    starts = offsets[:, 0].flip(0).cummin(0).values.flip(0).contiguous()
    ends = offsets[:, 1].cummax(0).values.contiguous()
    first = torch.searchsorted(ends, inner[:, 0].contiguous(), right=True)
    last = torch.searchsorted(starts, inner[:, 1].contiguous())
    blank = inner[:, 0] == inner[:, 1]
    for i in (blank | (first >= last)).nonzero().flatten().tolist()[:1]:
        start, end = spans[i].tolist()
        got = f"{(start, end)}"
        got += "" if text is None else f", the characters {reprlib.repr(text[start:end])}"
        raise bad(f"{name}[{i}]", got, "the tokenizer makes no token of them; expected a span with a token")
    return torch.stack([first, last], dim=1)


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space at its ends; (end, end) of white space alone."""
    part = text[start:end]
    return end - len(part.lstrip()), start + len(part.rstrip()) if part.strip() else end


def span_means(states: Tensor, tokens: Tensor) -> Tensor:
    """The mean state of each span.

    Args:
        states: (num_tokens, dim), any float dtype.
        tokens: (num_spans, 2) int64 on the CPU, as `span_tokens` returns them; ranges may overlap.

    Returns:
        (num_spans, dim) float32; float64 for float64 states.
    """
    states = states.to(compute_dtype(states.dtype))
    if not len(tokens):
        return states.new_zeros(0, states.shape[1])
    index, begins = token_index(tokens)
    device = states.device
    return F.embedding_bag(index.to(device), states, begins.to(device), mode="mean")


def token_index(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of all spans, one span behind the other, and where each span begins there.

    Args:
        tokens: (num_spans, 2) int64 on the CPU, as `span_tokens` returns them.

    Returns:
        (num_tokens_of_all,) and (num_spans,) int64 on the CPU.
    """
    lengths = tokens[:, 1] - tokens[:, 0]
    begins = lengths.cumsum(0) - lengths
    index = torch.arange(int(lengths.sum()), device="cpu")
    return index + (tokens[:, 0] - begins).repeat_interleave(lengths), begins


def coverage(text: str, offsets: Tensor) -> float:
    """The share of the text's characters, white space left out, that are in a token; 1.0 without any.

    Args:
        text: the characters.
        offsets: (num_tokens, 2) int64, the characters of each token that was read.
    """
    total = num_characters(text)
    return 1 - num_missing(text, offsets) / total if total else 1.0


def num_missing(text: str, offsets: Tensor) -> int:
    """Characters of a text, white space left out, that are in no token; arguments as of `coverage`."""
    if not len(offsets):
        return num_characters(text)
    ends = torch.cat([offsets.new_zeros(1), offsets[:, 1].cummax(0).values])
    starts = torch.cat([offsets[:, 0], offsets.new_tensor([len(text)])])
    gaps = (starts > ends).nonzero().flatten()
    pairs = zip(ends[gaps].tolist(), starts[gaps].tolist(), strict=True)
    return sum(num_characters(text[end:start]) for end, start in pairs)


def is_visible(text: str, offsets: Tensor) -> Tensor:
    """(num_tokens,) bool: whether a token has a character that is no white space.

    Args:
        text: the characters.
        offsets: (num_tokens, 2) int64, the characters of each token.
    """
    codes = torch.frombuffer(bytearray(text.encode("utf-32-le", "surrogatepass")), dtype=torch.int32)
    blank = torch.tensor(_WHITE_SPACE, dtype=torch.int32, device="cpu")
    before = F.pad((~torch.isin(codes, blank)).cumsum(0), (1, 0))
    return before[offsets[:, 1]] > before[offsets[:, 0]]


def num_characters(text: str) -> int:
    """Characters that are no white space."""
    return len("".join(text.split()))
