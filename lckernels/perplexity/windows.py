"""Strided scoring: the parts of a text that are read at a time, and the tokens scored in each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A part of the text.

    Attributes:
        begin, end: tokens [begin, end) are read.
        first: tokens [first, end) are scored, each from the tokens before it; first > begin.
    """

    begin: int
    end: int
    first: int


def windows(num_tokens: int, context: int, stride: int, given: int = 1) -> list[Window]:
    """Windows of `context` tokens, `stride` apart; each scores the tokens that no earlier window scored.

    The first `given` tokens are not scored, nor is the first token of a window: with stride == context that
    is one token of each window.

    Args:
        num_tokens: tokens of the text.
        context: tokens of a window.
        stride: from one window to the next, 1 <= stride <= context.
        given: tokens at the start that are not scored.
    """
    found, read = [], 0
    for begin in range(0, num_tokens, stride):
        end = min(begin + context, num_tokens)
        first = max(read, begin + 1, given)
        if first < end:
            found.append(Window(begin, end, first))
        read = end
        if end == num_tokens:
            break
    return found
