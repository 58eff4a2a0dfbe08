"""Strided scoring: the parts of a text that are read at a time, and the tokens scored in each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A part of the text.

    Attributes:
        repeated: tokens [0, repeated) of the text are read first.
        begin, end: then tokens [begin, end) are read; begin >= repeated.
        first: tokens [first, end) are scored, each from the tokens before it.
    """

    repeated: int
    begin: int
    end: int
    first: int

    @property
    def num_tokens(self) -> int:
        """Number of tokens that are read."""
        return self.repeated + self.end - self.begin

    @property
    def scored(self) -> range:
        """The places of the scored tokens among those that are read."""
        return range(self.num_tokens - (self.end - self.first), self.num_tokens)


def windows(num_tokens: int, context: int, stride: int, given: int = 1, *, repeated: int = 0) -> list[Window]:
    """Windows of `context` tokens, `stride` apart; each scores the tokens that no earlier window scored.

    The first `given` tokens are not scored. Without repeated tokens the first token of a window is not scored
    either: with stride == context that is one token of each window.

    Args:
        num_tokens: tokens of the text.
        context: tokens of a window, the repeated ones included.
        stride: from one window to the next, 1 <= stride <= context - repeated.
        given: tokens at the start that are not scored; at least `repeated`.
        repeated: tokens at the start of the text that every window begins with, 0 <= repeated < context.
    """
    found, read = [], repeated
    for begin in range(repeated, num_tokens, stride):
        end = min(begin + context - repeated, num_tokens)
        first = max(read, given, begin if repeated else begin + 1)
        if first < end:
            found.append(Window(repeated, begin, end, first))
        read = end
        if end == num_tokens:
            break
    return found
