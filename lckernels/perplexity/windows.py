"""Strided scoring: which part of a text is read at a time, and which of its tokens are scored then."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Tokens [begin, end) are read and [first, end) scored, each by the tokens before it; first > begin."""

    begin: int
    end: int
    first: int


def windows(num_tokens: int, context: int, stride: int, given: int = 1) -> list[Window]:
    """Windows of `context` tokens, `stride` apart; each scores the tokens that no window scored before.

    The first `given` tokens are not scored, nor is one that nothing stands before in its window: where
    stride == context, the first of each. Needs 1 <= stride <= context.
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
