"""What results of several tasks have in common."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """A part of a text.

    Attributes:
        start: its first character, an offset in the text that was given.
        end: the offset behind its last character.
        text: these characters.
        score: how sure the model is, as the task defines it; higher is surer.
    """

    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True)
class Curve:
    """A number along a text, for plots: parts of equally many tokens, and the largest value in each.

    Attributes:
        positions: (num_points) the first character of each part, rising.
        values: (num_points) one number per part.
        name: what the number is, such as "score of the best answer".
    """

    positions: list[int]
    values: list[float]
    name: str


def curve(name: str, offsets: Tensor, values: Tensor, num_points: int = 500) -> Curve:
    """The curve of one number per token.

    Args:
        name: what the number is.
        offsets: (num_tokens, 2) int64, the characters of each token; at least one.
        values: (num_tokens,) any float dtype.
        num_points: the most points of the curve.
    """
    size = -(-len(values) // num_points)
    padded = F.pad(values.float().cpu(), (0, -len(values) % size), value=-torch.inf)
    return Curve(offsets[::size, 0].tolist(), padded.view(-1, size).amax(1).tolist(), name)
