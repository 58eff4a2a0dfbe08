"""Floating point operations of attention and encoders (a multiply-add is two), and sizes in words."""

from collections import Counter
from collections.abc import Sequence

Window = tuple[int | None, int | None]


def attention_flops(pairs: int, num_heads: int, head_dim: int, head_dim_v: int) -> int:
    """Of q.k and of probabilities times v, for the visible (query, key) pairs of one head."""
    return 2 * pairs * num_heads * (head_dim + head_dim_v)


def attention_backward_flops(pairs: int, num_heads: int, head_dim: int, head_dim_v: int) -> int:
    """Of the backward's five products: q.k again, dout.v, and those that give dq, dk and dv."""
    return 2 * pairs * num_heads * (3 * head_dim + 2 * head_dim_v)


def encoder_flops(
    tokens: int,
    lengths: list[int],
    num_layers: int,
    hidden_size: int,
    intermediate_size: int,
    windows: Sequence[Window] | None = None,
) -> int:
    """Matrix products of an encoder.

    Args:
        tokens: that projections and feed-forward read, each with
            8 * hidden_size ** 2 + 4 * hidden_size * intermediate_size operations per layer.
        lengths: of the sequences that attention reads, each with 4 * hidden_size operations per layer and
            pair of a token and one that it attends to.
        num_layers: number of layers.
        hidden_size: width of a token's state.
        intermediate_size: width of the feed-forward.
        windows: (before, after) of each call of attention: how many tokens before and after a token it
            attends to at most, None without a bound. Default: full attention in every layer.
    """
    of_layers = Counter([(None, None)] * num_layers if windows is None else windows)
    numbers = Counter(lengths)
    pairs = sum(
        calls * number * window_pairs(length, *window)
        for window, calls in of_layers.items()
        for length, number in numbers.items()
    )
    dense = 4 * hidden_size * tokens * (2 * hidden_size + intermediate_size)
    return num_layers * dense + attention_flops(pairs, 1, hidden_size, hidden_size)


def window_pairs(length: int, before: int | None, after: int | None) -> int:
    """The pairs of a token and one that it attends to, itself included, in a sequence; a window as above."""
    sides = (length - 1 if side is None else min(side, length - 1) for side in (before, after))
    return length + sum(side * length - side * (side + 1) // 2 for side in sides)


def format_flops(count: int) -> str:
    """A number of operations with its unit, such as "1.25 TFLOP"."""
    for unit, scale in (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6)):
        if count >= scale:
            return f"{count / scale:,.2f} {unit}"
    return f"{count:,} FLOP"


def format_count(count: int, noun: str) -> str:
    """A number of things, such as "1 chunk" or "1,200 chunks"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_bytes(size: int) -> str:
    """A number of bytes with its unit, such as "1.5 GiB"."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return format_count(size, "byte")
